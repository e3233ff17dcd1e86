"""The result table: which rows and columns it has, what they say, and that it fits a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from manifests import finetune_content, rated_networks, search_content
from masktas.console import Console
from masktas.stages.common.manifest import FinetuneManifest, SearchManifest
from masktas.stages.search.table import ResultTable


def table(
    finetuned: list[dict[str, Any]] | None = None, *, average_random: bool = True, **changes: Any
) -> ResultTable:
    search = SearchManifest.of(search_content() | changes)
    of_run = [FinetuneManifest.of(one) for one in finetuned or []]
    return ResultTable.of(search, of_run, average_random=average_random)


def column(one: ResultTable, name: str) -> dict[str, str]:
    at = one.header().index(name)
    return {cells[0]: cells[at] for cells in one.cells()}


def test_the_winner_is_first_and_random_networks_are_averaged() -> None:
    one = table()
    assert one.title == "at most 200K params: 6 of 1,000 networks rated"
    assert one.header() == ["network", "rating", "winner ahead by", "params", "MACs"]
    assert column(one, "rating") == {
        "winner": "-2.0000", "largest uniform": "-2.4000", "mean of 3 random": "-2.2000 ± 0.1000",
    }  # fmt: skip
    names = [cells[0] for cells in table(average_random=False).cells()]
    assert names == ["winner", "largest uniform", "random 1", "random 2", "random 3"]


def test_accuracies_are_of_the_very_same_network_and_weights() -> None:
    rated = rated_networks(6)
    tuned = [
        finetune_content(rated[0], 0.9),
        finetune_content(rated[0], 0.7, "scratch"),
        finetune_content(rated[1], 0.6),
        finetune_content(rated[2], 0.7),
        finetune_content(rated[5], 0.1),  # none of the table's
    ]
    one = table(tuned)
    assert column(one, "top-1 %") == {
        "winner": "90.00", "winner, from scratch": "70.00", "largest uniform": "–",
        "mean of 3 random": "65.00 ± 7.07",
    }  # fmt: skip
    assert column(one, "rating")["winner, from scratch"] == "–"
    assert column(one, "params")["winner, from scratch"] == column(one, "params")["winner"]
    alone = column(table(tuned, average_random=False), "top-1 %")
    assert [alone[f"random {place}"] for place in (1, 2, 3)] == ["60.00", "70.00", "–"]


def test_what_is_limited_or_measured_has_a_column() -> None:
    rated = rated_networks(2)
    for one in rated:
        one |= {"error": 0.0123, "latency": 4.5, "size": 9e6, "memory": 1e6}
    rated[0] |= {"measured_latency": 4.75, "measured_latency_range": [4, 5]}
    one = table(
        winner=rated[0],
        top=rated,
        random=[],
        budget={"max_size": 10_000_000},
        uniform=rated_networks(5)[4] | {"size": 9e6},
        random_search=rated[0],
        ahead={"uniform": {"difference": 0.4, "error": 0.0321}},
        reused=4,
    )
    assert one.title.endswith("6 of 1,000 networks rated, 4 of them by earlier searches")
    assert one.header()[3:] == ["params", "MACs", "latency", "predicted latency", "size"]
    assert column(one, "latency") | {"largest uniform": "–"} == {
        "winner": "4.75 ms", "2. best": "–", "best of random search": "4.75 ms",
        "largest uniform": "–",
    }  # fmt: skip
    assert column(one, "size")["winner"] == "9 MB"
    assert column(one, "rating")["winner"] == "-2.0000 ± 0.0123"
    ahead = column(one, "winner ahead by")
    assert ahead["largest uniform"] == "+0.4000 ± 0.0321"
    assert ahead["best of random search"] == "same network"


def test_baselines_that_are_the_same_network_share_a_row() -> None:
    rated = rated_networks(6)
    one = table(
        house=rated[4],
        best_uniform=rated[0],
        random_search=rated[5],
        ahead={name: {"difference": 0.1 * place, "error": None}
               for place, name in enumerate(("house", "best_uniform", "random", "random_search"))},
    )  # fmt: skip
    assert column(one, "winner ahead by") == {
        "winner": "", "house shape = largest uniform": "+0.0000", "best uniform": "same network",
        "best of random search": "+0.3000", "mean of 3 random": "+0.2000",
    }  # fmt: skip
    coarser = {**rated[4], "architecture": rated[4]["architecture"] | {"patch_size": 14}}
    assert "largest uniform" in column(table(house=coarser), "rating")


@pytest.mark.parametrize(("count", "words"), [(1, "1 network is"), (2, "2 networks are")])
def test_it_fits_80_columns(
    count: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rated = rated_networks(6)
    for one in rated:
        one["error"] = 0.0123
    monkeypatch.setattr(Console, "width", 80)
    table([finetune_content(rated[0], 0.9)], top=rated[:1], front=rated[:count]).print(Console())
    said = capsys.readouterr().err
    assert max(len(line) for line in said.splitlines()) <= 80
    assert "± 0.0123" not in said
    assert f"{words} on the front" in said
