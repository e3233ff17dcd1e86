"""The verdict tells a rating that ranks from one that only knows size."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from masktas.console import Console
from masktas.stages.validate import findings
from masktas.stages.validate.agreement import compare
from masktas.stages.validate.rank_correlation import resamples
from masktas.stages.validate.reliability import ceiling, split_half

N = 40


@pytest.fixture(scope="module")
def world():
    """Accuracy that is half size; and ratings that know all of it, size, its rest, or nothing."""
    rng = np.random.default_rng(0)
    params, rest = 1e6 * rng.uniform(1, 4, N), rng.normal(size=N)
    accuracy = 0.6 + 0.01 * ((params / 1e6 - 2.5) / 0.87 + rest)
    ratings = {
        "oracle": accuracy + 1e-4 * rng.normal(size=N),
        "bulk": params + 2e5 * rng.normal(size=N),
        "skill": rest + 0.5 * rng.normal(size=N),
        "chance": rng.normal(size=N),
        "constant": np.ones(N),
        "params": params,
        "macs": params * 50,
    }
    counts = resamples(N, 500, 0)
    return compare(ratings, accuracy, params, counts, of_size=findings.OF_SIZE), ratings, accuracy


def said(world, lead, *others):
    agreements = {name: world[0][name] for name in (lead, *others, "params", "macs")}
    return findings.verdict(agreements, lead=lead, num_networks=N)


def test_planted_ratings_are_told_apart(world):
    assert "it ranks better than size" in said(world, "oracle")
    assert "mostly size" in said(world, "bulk")
    assert "it adds to size" in said(world, "skill")
    assert "not shown to rank them at all" in said(world, "chance")
    assert said(world, "constant").startswith("Nothing can be said: of 40 networks")


def test_the_verdict_is_one_sentence_with_its_numbers(world):
    text = said(world, "bulk", "oracle", "skill", "chance")
    tau, size = (world[0][name].tau for name in ("bulk", "params"))
    assert text.startswith(f"bulk ranks 40 networks with tau {tau.value:.2f} [{tau.low:.2f},")
    assert f"but size alone (params) reaches {size.value:.2f} [" in text
    assert "given size its partial rank correlation is" in text
    assert f"better than size: oracle (tau {world[0]['oracle'].tau.value:.2f})" in text
    assert "adding to size: skill" in text
    assert "chance" not in text
    assert text.count(". ") == 0
    assert text.endswith(".")
    assert said(world, "bulk", "chance").endswith("comparisons, no rating beats size.")
    assert said(world, "oracle", "chance").endswith("comparisons, no other rating beats size.")


def test_variants_are_said_to_be_picked_afterwards(world):
    agreements = world[0]
    text = findings.verdict(
        agreements, lead="bulk", num_networks=N, variants=["oracle", "skill", "chance", "constant"]
    )
    assert "correction for 4 comparisons, no rating beats size; of 4 variants oracle" in text
    assert "which flatters it since it was picked afterwards: better than size: oracle" in text
    assert "adding to it: skill" in text
    text = findings.verdict(agreements, lead="oracle", num_networks=N, variants=["chance"])
    assert text.endswith("picked afterwards: none beats size.")
    nothing = findings.verdict(agreements, lead="oracle", num_networks=N, variants=["constant"])
    assert "variants" not in nothing


def test_chance_is_not_found_among_many_variants():
    """Of 40 ratings that know nothing, one alone would often be called better than size."""
    rng = np.random.default_rng(1)
    accuracy, params = rng.normal(size=30), rng.normal(size=30)
    variants = {f"chance {number}": rng.normal(size=30) for number in range(40)}
    ratings = {**variants, "consistency": rng.normal(size=30), "params": params}
    found = compare(ratings, accuracy, params, resamples(30, 2000, 0), of_size=("params",))
    assert any(one.gain.above_zero for one in found.values())
    text = findings.verdict(found, lead="consistency", num_networks=30, variants=list(variants))
    assert text.endswith("none beats size.")
    rows = findings.table_variants(
        {name: found[name] for name in variants},
        {name: split_half(rng.normal(size=(30, 9)), resamples(30, 0, 0), seed=0) for name in found},
    )
    assert {len(row) for row in rows} == {len(findings.HEADER_VARIANTS)}
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)


def test_inside_a_band_of_one_size_a_useful_rating_is_not_called_size():
    rng = np.random.default_rng(0)
    accuracy, params = rng.normal(size=30), rng.normal(size=30)
    ratings = {"consistency": accuracy + 0.7 * rng.normal(size=30), "params": params}
    found = compare(ratings, accuracy, params, resamples(30, 500, 0), of_size=("params",))
    text = findings.verdict(found, lead="consistency", num_networks=30)
    assert "ranks better than size" in text


def test_the_table_has_every_rating_best_first_and_the_ceiling_last(world):
    agreements, ratings, _ = world
    rng = np.random.default_rng(0)
    reliabilities = {"skill": split_half(rng.normal(size=(N, 9)), resamples(N, 9, 0), seed=0)}
    correct = (rng.uniform(size=(2, N, 50)) < 0.5).astype(float)
    rows = findings.table(agreements, reliabilities, ceiling(correct, resamples(N, 50, 0), seed=0))
    assert {len(row) for row in rows} == {len(findings.HEADER)}
    names = [row[0] for row in rows]
    assert set(names[:7]) == set(ratings)
    assert names[0] == "oracle"
    assert names[6] == "constant"
    assert rows[6][1:] == [findings.NONE] * 3 + ["–\n–\n–", findings.NONE]
    assert names[7:] == ["two halves", "two seeds", "ceiling"]
    taus = [float(row[1].split()[0]) for row in rows[:6]]
    assert taus == sorted(taus, reverse=True)
    assert rows[2][4].startswith(f"{100 * agreements[names[2]].regret[1].value:.1f} [")
    assert rows[0][1] == "{:.2f}\n[{:.2f}, {:.2f}]".format(
        *agreements["oracle"].tau.to_dict().values()
    )
    brief = findings.table(
        agreements, {}, ceiling(correct, resamples(N, 50, 0), seed=0), brief=True
    )
    points = [f"{100 * one.value:.1f}" for one in agreements[names[2]].regret.values()]
    assert brief[2][4] == "/".join(points)
    assert not any("nan" in cell or "None" in cell for row in rows for cell in row)


@pytest.mark.slow
def test_the_picture_has_a_panel_a_rating_and_is_the_same_every_time(world, tmp_path):
    agreements, ratings, accuracy = world
    both = np.stack([accuracy - 0.001, accuracy + 0.001])
    for folder in ("a", "b"):
        findings.write_scatter(tmp_path / folder, ratings, both, ratings["params"], agreements)
    svg = (tmp_path / "a/scatter.svg").read_text()
    for name, one in agreements.items():
        assert f">{name}<" in svg
        if one.tau.value is not None:
            assert f"tau {one.tau.value:.2f}" in svg
    assert svg == (tmp_path / "b/scatter.svg").read_text()
    with Image.open(tmp_path / "a/scatter.png") as picture:
        assert picture.width > 800
        assert len(set(picture.convert("L").get_flattened_data())) > 20


def test_two_networks_of_one_size_can_be_drawn(tmp_path):
    ratings = {"a": np.array([1.0, 1.0]), "params": np.array([5.0, 5.0])}
    found = compare(
        ratings, np.array([0.1, 0.2]), ratings["params"], resamples(2, 9, 0), of_size=("params",)
    )
    accuracy = np.array([[0.1, 0.2]])
    findings.write_scatter(tmp_path, ratings, accuracy, ratings["params"], found)
    assert (tmp_path / "scatter.png").stat().st_size > 1000
    assert "Nothing can be said" in findings.verdict(found, lead="a", num_networks=2)


def test_the_spreadsheet_reads_back(tmp_path):
    findings.write_csv(tmp_path / "a.csv", {"index": [0, 1], "tau, b": [0.1, 1e-9]})
    with open(tmp_path / "a.csv", newline="") as file:
        assert list(csv.reader(file)) == [["index", "tau, b"], ["0", "0.1"], ["1", "1e-09"]]


def test_tables_fit_80_characters(monkeypatch, capsys):
    """Also where every number is negative, and names are the longest there are."""
    monkeypatch.setenv("COLUMNS", "80")
    rng = np.random.default_rng(0)
    accuracy, params = 0.01 * rng.normal(size=(2, 12))
    names = ["reconstruction", "consistency scaled 0.05 self"]
    ratings = {name: 0.003 * rng.normal(size=12) - accuracy for name in names} | {"params": params}
    counts = resamples(12, 200, 0)
    found = compare(ratings, accuracy, params, counts, of_size=("params",))
    halves = {name: split_half(rng.normal(size=(12, 9)), counts, seed=0) for name in names}
    correct = (rng.uniform(size=(2, 12, 50)) < 0.5).astype(float)
    usual = {name: found[name] for name in ("reconstruction", "params")}
    rows = findings.table(usual, halves, ceiling(correct, counts, seed=0), brief=True)
    Console().table("usual", findings.HEADER, rows)
    rows = findings.table_variants({names[1]: found[names[1]]}, halves, brief=True)
    Console().table("variants", findings.HEADER_VARIANTS_BRIEF, rows)
    shown = capsys.readouterr().err
    assert max(len(line) for line in shown.splitlines()) <= 80
    tau = found["reconstruction"].tau
    assert f"[{tau.low:.2f}, {tau.high:.2f}]" in shown
    assert tau.high < 0
    assert all(name in shown for name in names)
