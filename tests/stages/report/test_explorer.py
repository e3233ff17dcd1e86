"""The data of the chart of networks: each network once, with all that is known of it."""

from __future__ import annotations

from typing import Any

import pytest

from manifests import finetune_content, history_lines, rated_networks, search_content
from masktas.space import Budget
from masktas.stages.common.manifest import FinetuneManifest, SearchManifest
from masktas.stages.report import explorer as module
from masktas.stages.report.explorer import Points, explorer


def points(count: int = 6) -> Points:
    found = Points(history_lines(rated_networks(count)))
    found.note(result := SearchManifest.of(search_content()).result, result.winner)
    return found


def networks(found: Points, **budget: Any) -> list[dict[str, Any]]:
    chart = explorer("search/main", found, Budget(**budget), figures=[], caption="")
    drawn: list[dict[str, Any]] = chart.data["networks"]
    return drawn


def test_each_network_is_there_once_with_all_that_it_is() -> None:
    drawn = networks(points())
    rated = rated_networks(6)
    assert len(drawn) == 6
    by_name = {one["name"]: one for one in drawn}
    winner, largest = by_name["network 1"], by_name["network 5"]
    assert (winner["marks"], winner["labels"]) == (["winner"], ["winner"])
    assert (largest["marks"], largest["labels"]) == (["uniform"], ["largest uniform"])
    assert [by_name[f"network {n}"]["labels"] for n in (2, 3, 4)] == [
        ["random 1"], ["random 2"], ["random 3"],
    ]  # fmt: skip
    assert by_name["network 6"]["marks"] == []
    assert winner["values"] == {
        "rating": -2.0, "params": rated[0]["params"], "macs": rated[0]["macs"],
    }  # fmt: skip
    architecture = rated[0]["architecture"]
    assert winner["shape"]["heads"] == architecture["num_heads"]
    assert winner["shape"]["width"] == architecture["embed_dim"]
    ratio, width = architecture["mlp_ratio"][0], architecture["embed_dim"]
    assert winner["shape"]["mlp"][0] == int(ratio * width)


def test_the_winner_of_a_refinement_and_that_of_the_search_are_told_apart() -> None:
    found = Points(history_lines(rated_networks(6)))
    result = SearchManifest.of(search_content()).result
    assert result.uniform is not None
    found.note(result, result.uniform)
    marks = {one["name"]: one["marks"] for one in networks(found)}
    assert marks["network 1"] == ["searched"]
    assert marks["network 5"] == ["winner", "uniform"]


def test_accuracy_is_an_axis_if_networks_were_fine_tuned() -> None:
    found, rated = points(), rated_networks(7)
    tuned = [("main", 0, 0.9), ("main-seed-1", 0, 0.8), ("elsewhere", 6, 0.7)]
    manifests = [
        (name, FinetuneManifest.of(finetune_content(rated[index], top1)))
        for name, index, top1 in tuned
    ]
    scratch = FinetuneManifest.of(finetune_content(rated[0], 0.1, init="scratch"))
    found.add_accuracies([*manifests, ("scratch", scratch)])
    chart = explorer("search/main", found, Budget(), figures=[], caption="")
    assert [one["key"] for one in chart.data["axes"]["y"]] == ["rating", "top1"]
    winner = chart.data["networks"][0]
    assert winner["finetuned"] == [["main", 0.9], ["main-seed-1", 0.8]]
    assert winner["values"]["top1"] == pytest.approx(0.85)
    assert winner["errors"]["top1"] == pytest.approx(0.1 / 2**0.5)
    assert "top-1 %" in chart.table.header
    assert chart.table.rows[0][chart.table.header.index("top-1 %")] == "85.00"
    without = explorer("search/main", points(), Budget(), figures=[], caption="")
    assert [one["key"] for one in without.data["axes"]["y"]] == ["rating"]


def test_the_first_axis_is_what_the_budget_limits() -> None:
    chart = explorer("search/main", points(), Budget(max_macs=9_000), figures=[], caption="")
    assert [one["key"] for one in chart.data["axes"]["x"]] == ["macs", "params"]
    assert chart.data["limits"] == {"macs": [9_000]}


def test_of_many_networks_those_that_matter_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    chart = explorer("search/main", points(50), Budget(), figures=[], caption="Drawn.")
    drawn = chart.data["networks"]
    assert sum(bool(one["marks"]) for one in drawn) == 5
    assert 5 <= len(drawn) - 5 <= 10
    missing = 50 - len(drawn)
    assert chart.caption == f"Drawn. {missing} of the 50 are left out of it, evenly."


def test_the_table_has_the_numbers_of_the_marked_networks() -> None:
    chart = explorer("search/main", points(), Budget(max_params=1), figures=[], caption="")
    assert chart.table.header == ["network", "rating", "params", "MACs", "width", "blocks", "patch"]
    assert len(chart.table.rows) == 5
    assert chart.table.rows[0][:2] == ["winner", "-2.0000"]
