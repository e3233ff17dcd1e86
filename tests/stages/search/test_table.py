"""The result table: which rows and columns it has, what they say, and that it fits a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from manifests import finetune_content, rated_networks, search_content
from masktas.config import FinetuneSettings
from masktas.console import Console
from masktas.stages.common.manifest import FinetuneManifest, SearchManifest
from masktas.stages.search.table import ResultTable


def table(finetuned: list[dict[str, Any]] | None = None, **changes: Any) -> ResultTable:
    search = SearchManifest.of(search_content() | changes)
    of_run = [FinetuneManifest.of(one) for one in finetuned or []]
    return ResultTable.of(search, of_run)


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
    names = [cells[0] for cells in table(random=rated_networks(2)[1:]).cells()]
    assert names == ["winner", "largest uniform", "random 1"]


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


def test_a_recipe_of_an_earlier_version_is_the_same_without_its_later_settings() -> None:
    rated = rated_networks(6)
    tuned = [finetune_content(rated[0], 0.9), finetune_content(rated[1], 0.6)]
    tuned[1]["settings"]["settings"] |= FinetuneSettings(init="inherit").model_dump(mode="json")
    assert column(table(tuned), "top-1 %")["mean of 3 random"] == "60.00"
    tuned[1]["settings"]["settings"]["nesterov"] = True
    assert column(table(tuned), "top-1 %")["mean of 3 random"] == "–"


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


# --- the winner's accuracy in words


def verdicts_of(mine: list[float], its: list[float], **changes: Any) -> list[str]:
    """Return what is said of a winner and the largest uniform network, fine-tuned several times."""
    content = search_content() | changes
    trained = [finetune_content(content["winner"], one) for one in mine]
    trained += [finetune_content(content["uniform"], one) for one in its]
    for one in trained:
        one["images"]["splits"] = one["images"]["splits"] | {"test": {"images": 400, "digest": "0"}}
    search = SearchManifest.of(content)
    return ResultTable.of(search, [FinetuneManifest.of(one) for one in trained]).verdicts()


@pytest.mark.parametrize(
    ("mine", "its", "word"),
    [
        ([0.9, 0.92], [0.9, 0.91], "level with"),
        ([0.9], [0.8], "ahead of"),  # 10 points, standard error 2.5
        ([0.8], [0.9], "behind"),
        ([0.86], [0.9], "level with"),  # 4 points, standard error 2.3
        ([0.9, 0.7], [0.7, 0.7], "level with"),  # the seeds differ more than the networks
    ],
)
def test_the_winner_is_ahead_level_or_behind(mine: list[float], its: list[float], word: str):
    (said,) = verdicts_of(mine, its)
    assert said.startswith(f"Winner {word} largest uniform: ")
    difference = 100 * (sum(mine) / len(mine) - sum(its) / len(its))
    assert f"a difference of {difference:+.1f} ± " in said
    assert said.endswith("400 test images).")


def test_the_standard_error_counts_images_and_seeds():
    (said,) = verdicts_of([0.9, 0.8], [0.5])
    images = [(p * (100 - p) / 400) for p in (85, 50)]
    seeds = 50 / 2  # the variance of 90 and 80, over two of them
    assert f"+35.0 ± {(sum(images) + seeds) ** 0.5:.1f} " in said


def test_the_standard_error_of_random_networks_is_over_networks():
    """Fine-tunings of one network are not independent: three networks count, not six numbers."""
    content = search_content()
    trained = [finetune_content(content["winner"], 0.9)]
    for one, accuracy in zip(content["random"], (0.3, 0.5, 0.7), strict=True):
        trained += [finetune_content(one, accuracy - 0.01), finetune_content(one, accuracy + 0.01)]
    found = ResultTable.of(
        SearchManifest.of(content), [FinetuneManifest.of(one) for one in trained]
    ).verdicts()
    said = next(one for one in found if "random networks" in one)
    images = [(p * (100 - p) / 10) for p in (90, 50)]
    assert f"+40.0 ± {(sum(images) + 20**2 / 3) ** 0.5:.1f} " in said


def test_a_baseline_that_is_the_winner_is_not_compared_with_itself():
    winner = search_content()["winner"]
    same, other = verdicts_of([0.9], [0.5], house=winner | {"error": 0.5}, random_search=None)
    assert same == "Winner and house shape are the same network."
    assert other.startswith("Winner ahead of largest uniform: ")


def test_nothing_is_said_without_accuracies():
    assert table().verdicts() == []


def test_random_networks_are_one_group_and_a_network_from_scratch_none():
    content = search_content()
    trained = [finetune_content(content["winner"], 0.9)]
    trained.append(finetune_content(content["winner"], 0.5, "scratch"))
    trained += [finetune_content(one, 0.8) for one in content["random"]]
    shown = ResultTable.of(
        SearchManifest.of(content), [FinetuneManifest.of(one) for one in trained]
    )
    (said,) = shown.verdicts()
    assert "random networks: 90.0 against 80.0 %" in said


def test_a_kept_architecture_is_its_own_row_even_if_it_is_the_winner_again():
    content = search_content()
    tuned, kept = (FinetuneManifest.of(finetune_content(content["winner"], one))
                   for one in (0.9, 0.6))  # fmt: skip
    shown = ResultTable.of(SearchManifest.of(content), [tuned], kept=[kept])
    assert column(shown, "rating")["kept architecture"] == "–"
    accuracies = column(shown, "top-1 %")
    assert (accuracies["winner"], accuracies["kept architecture"]) == ("90.00", "60.00")
    assert any("kept architecture: 90.0 against 60.0 %" in one for one in shown.verdicts())


def test_only_what_was_trained_as_the_winner_was_first_is_averaged() -> None:
    content = search_content()
    main, other = (finetune_content(content["winner"], top1) for top1 in (0.5, 0.6))
    longer, refined, scratch = (
        finetune_content(content["winner"], 0.9),
        finetune_content(content["winner"], 0.8),
        finetune_content(content["winner"], 0.3, "scratch"),
    )
    uniform, unlike = (finetune_content(content["uniform"], top1) for top1 in (0.4, 0.7))
    for one in (longer, unlike):
        one["settings"]["settings"]["epochs"] = 30
    refined["parents"]["weights"] = {"file": "../../refine/main/weights.safetensors"}
    trained = [main, other, longer, refined, scratch, uniform, unlike]
    found = ResultTable.of(
        SearchManifest.of(content), [FinetuneManifest.of(one) for one in trained]
    )
    top1 = {row.name: row.top1 for row in found.rows}
    assert top1["winner"] == "55.00 ± 7.07"
    assert top1["winner, from scratch"] == "30.00"
    assert top1["largest uniform"] == "40.00"
    first = [FinetuneManifest.of(one) for one in (longer, *trained)]
    assert ResultTable.of(SearchManifest.of(content), first).rows[0].top1 == "90.00 ± 0.00"
