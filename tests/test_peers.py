"""benchmarks/peers in small, with stand-ins for the peers' code (tests/standins)."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.models import vision_transformer

from masktas.space import Architecture, SearchSpace
from scripts import imported

STANDINS = Path(__file__).parent / "standins"
NAMES = (
    "turns", "work", "clones", "networks", "encoder", "supernet", "autoencoder", "search",
    "classifier", "beside",
)  # fmt: skip


@pytest.fixture(scope="module")
def peers() -> SimpleNamespace:
    """Import the scripts."""
    return SimpleNamespace(**{name: imported(f"peers.{name}") for name in NAMES})


@pytest.fixture
def work(peers: SimpleNamespace, monkeypatch):
    """Tiny work in fp32: every contender does one step, and is said to take its number."""

    def once(steps, *_, **__):
        for step in steps.values():
            step(0)
        return {name: [1.0 + at] * 2 for at, name in enumerate(steps)}

    monkeypatch.setattr(peers.turns, "in_turns", once)
    monkeypatch.setattr(peers.work.Work, "precisions", ["fp32"])
    monkeypatch.setattr(peers.work, "DRAWN", 3)
    return peers.work.Work(
        SearchSpace.load("demo"), 2, 0.0, 1,
        peers.clones.autoformer(STANDINS / "autoformer"), peers.clones.mae(STANDINS / "mae"),
        peaks={"fp32": 1e9},
    )  # fmt: skip


def names_of(found: dict) -> list[str]:
    """Return the names of the contenders but for the second of ours."""
    assert found["rows"][-1]["name"] == "masktas, freed memory returned"
    return [row["name"] for row in found["rows"][:-1]]


def test_turns_rotate_and_leave_the_first_out(peers: SimpleNamespace) -> None:
    now, order = 0.0, []

    def step_of(name: str, seconds: float):
        def step(number: int) -> None:
            nonlocal now
            now += seconds * (10 if number < peers.turns.TURN else 1)
            order.append(name)

        return step

    steps = {"a": step_of("a", 1.0), "b": step_of("b", 2.0)}
    found = peers.turns.in_turns(steps, 0.0, lambda: None, lambda: now)
    assert found == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert order[:: peers.turns.TURN] == ["a", "b", "b", "a", "a", "b"]


def test_what_others_did_to_memory_is_not_counted(peers: SimpleNamespace) -> None:
    now, done = 0.0, []

    def step(number: int) -> None:
        nonlocal now
        now += 1.0 if done and done[-1] == number else 5.0  # done anew after others' turns
        done.append(number)

    found = peers.turns.in_turns(
        {"a": step}, 0.0, lambda: None, lambda: now, turn_steps=1, untimed=1
    )
    assert found == {"a": [1.0, 1.0]}
    assert done == [0, 0, 1, 1, 2, 2]


def test_ratios_are_those_of_turns_in_the_same_and_in_the_default_precision(
    peers: SimpleNamespace, monkeypatch
) -> None:
    times = {
        "masktas fp32": [1.0, 2.0, 4.0], "peer fp32": [2.0, 4.0, 4.0],
        "masktas bf16": [0.5, 1.0, 2.0], "peer bf16": [1.0, 1.0, 1.0],
    }  # fmt: skip
    monkeypatch.setattr(peers.turns, "in_turns", lambda *_, **__: times)
    contenders = [
        peers.turns.Contender(*name.split(), lambda number: None) for name in times
    ]  # fmt: skip
    rows = peers.turns.measured(
        contenders, images=4, flops=lambda step: 3.0 * step, peaks={"fp32": 6.0, "bf16": 12.0},
        default="bf16", seconds=0.0, turn_steps=2,
    )  # fmt: skip
    medians = [(row["ratio"][1], row["ratio_to_default"][1]) for row in rows]
    assert medians == [(1.0, 2.0), (2.0, 4.0), (1.0, 1.0), (1.0, 1.0)]
    assert rows[0]["images_per_second"] == 2.0
    # steps 2 to 7 have 3 * 4.5 flops in the mean and take 7 / 3 s in the mean
    assert rows[0]["share_of_peak"] == pytest.approx(13.5 / (7 / 3) / 6.0)
    assert peers.turns.quartiles([1.0, 2.0, 3.0]) == (1.5, 2.0, 2.5)


def test_only_masktas_keeps_freed_memory(peers: SimpleNamespace, monkeypatch) -> None:
    turns, done = peers.turns, []
    monkeypatch.setattr(turns, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setattr(turns, "return_freed_memory", lambda: done.append("returned"))
    for name in (turns.OURS, turns.OURS_RETURNING, "timm", "masktas compiled"):
        turns.Contender(name, "fp32", done.append)(1)
    assert done == ["kept", 1, "returned", 1, "returned", 1, "kept", 1]


def test_clones_leave_no_trace(peers: SimpleNamespace) -> None:
    before, block = set(sys.modules), vision_transformer.Block
    found = peers.clones.autoformer(STANDINS / "autoformer")
    assert found.LinearSuper(4, 2).weight.shape == (2, 4)
    assert "torch._six" not in sys.modules
    peers.clones.mae(STANDINS / "mae")
    assert vision_transformer.Block is block
    assert not hasattr(np, "float")
    assert not {name.split(".")[0] for name in set(sys.modules) - before} & {
        *peers.clones.OWN_NAMES
    }  # fmt: skip
    with pytest.raises(ImportError):
        importlib.import_module("models_mae")
    with pytest.raises(SystemExit, match=r"models_mae is missing"):
        peers.clones.mae(STANDINS / "autoformer")


def test_networks_are_compared_with_equal_ones(peers: SimpleNamespace, work) -> None:
    found = peers.classifier.measure(work)
    assert names_of(found) == ["masktas", "timm"]
    assert found["outputs_apart"] < 1e-4
    assert all(row["share_of_peak"] > 0 and row["turns"] >= 2 for row in found["rows"])


def test_encoders_are_equal(peers: SimpleNamespace, work) -> None:
    found = peers.encoder.measure(work)
    assert names_of(found) == ["masktas", "AutoFormer", "AutoFormer with relative positions"]
    assert 0 < found["outputs_apart"] < 1e-4


def test_autoencoders_are_equal(peers: SimpleNamespace, work) -> None:
    found = peers.autoencoder.measure(work)
    assert names_of(found) == ["masktas", "MAE"]
    assert found["outputs_apart"] < 1e-5


def test_students_are_equal(peers: SimpleNamespace, work) -> None:
    found = peers.supernet.measure(work)
    assert names_of(found) == ["masktas", "AutoFormer and MAE"]
    assert found["outputs_apart"] < 1e-5


def test_work_that_is_not_equal_is_refused(peers: SimpleNamespace, work, monkeypatch) -> None:
    usual = peers.search.fill_autoformer

    def careless(network, store, largest: Architecture) -> None:
        usual(network, store, largest)
        with torch.no_grad():
            network.norm.bias += 1

    monkeypatch.setattr(peers.search, "fill_autoformer", careless)
    with pytest.raises(peers.work.NotEqual, match=r"outputs are .* apart"):
        peers.encoder.measure(work)


def test_candidates_have_the_accuracies_of_the_peer(peers: SimpleNamespace, work) -> None:
    drawn = peers.search.offspring(work.space, 6)
    assert len(set(drawn)) == 6
    found = peers.search.measure(work, candidates=3, images=6)
    assert names_of(found) == ["masktas", "AutoFormer", "masktas default rating"]
    assert found["outputs_apart"] < 1e-6
    assert found["images"] == 18
    assert found["rows"][2]["share_of_peak"] is None


def test_the_table_is_printed_and_written(
    peers: SimpleNamespace, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(peers.work.Work, "precisions", ["fp32"])
    threads, out = str(torch.get_num_threads()), tmp_path / "peers.json"
    words = ["--space", "demo", "--batch", "2", "--seconds", "0", "--threads", threads]
    assert peers.beside.main([*words, "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert list(written["parts"]) == ["p8"]  # without clones
    assert written["peaks"]["fp32"] > 0
    assert capsys.readouterr().out.count("\n| p8 | ") == 3
    with pytest.raises(SystemExit, match="No part p1 without its clone"):
        peers.beside.main([*words, "--only", "p1"])
    assert peers.work.LIMIT == 1e-3
    monkeypatch.setattr(peers.work, "LIMIT", -1.0)
    assert peers.beside.main([*words, "--only", "p8"]) == 1
