"""What a search finds: winner, front, baselines and ratings, under budgets of any quantity."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import masktas as package
from masktas.space import (
    Architecture,
    Budget,
    BudgetedSpace,
    SearchSpace,
    format_quantity,
    macs,
    params,
)
from masktas.space.decoder import Decoder
from searches import Call, entries
from worlds import World, manifest

pytestmark = pytest.mark.e2e


# --- winner, front, baselines


def test_the_front_holds_nothing_dominated_and_nothing_outside_the_budget(
    run: Path, search: Callable[..., dict[str, Any]]
) -> None:
    limits = {"params": (5_000, 14_000), "memory": (0, 16_000)}
    found = search("--strategy", "nsga2", "--min-params", "5K", "--max-params", "14K",
                   "--max-memory", "16KB", "--objectives", "macs,memory")  # fmt: skip
    said = json.loads((run / "search/main/front.json").read_text())
    assert said == {"objectives": ["macs", "memory"], "front": found["front"]}
    points = [(one["rating"], -one["macs"], -one["memory"]) for one in said["front"]]
    assert len(points) >= 2
    rated = [(one["rating"], -one["macs"], -one["memory"])
             for one in entries(run / "search/main/history.jsonl")]  # fmt: skip
    for point in points:
        assert not [one for one in rated if one != point and all(
            better >= mine for better, mine in zip(one, point, strict=True))]  # fmt: skip
    for one in [*said["front"], *found["top"], *found["random"], found["random_search"]]:
        for what, (low, high) in limits.items():
            assert low <= one[what] <= high
    with open(run / "search/main/front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(points)
    for row, one in zip(rows, said["front"], strict=True):
        for what in ("rating", "error", "params", "macs", "size", "memory"):
            assert float(row[what]) == one[what]
        heads = [int(number) for number in row["num_heads"].split()]
        assert heads == one["architecture"]["num_heads"]


def test_the_best_are_written_each_with_weights(
    run: Path, world: World, masktas: Call, search: Callable[..., dict[str, Any]]
) -> None:
    found = search("--top-k", 3)
    assert len(found["top"]) == 3
    ratings = [one["rating"] for one in found["top"]]
    assert ratings == sorted(ratings, reverse=True)
    for place, one in enumerate(found["top"][1:], start=2):
        folder = run / f"search/main/top-{place}"
        network = package.load(folder)
        assert network.architecture.num_heads == tuple(one["architecture"]["num_heads"])
        code, out, _ = masktas("show", folder, "--json")
        assert code == 0
        assert json.loads(out)["params"] == one["params"]
    code, _, said = masktas("finetune", "--out", run, "--architecture", run / "search/main/top-2",
                            "--config", world.recipe, "--epochs", 1)  # fmt: skip
    assert code == 0, said
    made = manifest(run / "finetune/main")["settings"]["architecture"]
    assert made["num_heads"] == found["top"][1]["architecture"]["num_heads"]


def test_baselines_use_the_budget_as_candidates_do(
    run: Path, search: Callable[..., dict[str, Any]]
) -> None:
    found = search("--min-use", 0.9, "--population", 4, "--generations", 3)
    space = SearchSpace.load(run / "supernet/space.json")
    within = BudgetedSpace(space, Budget(max_params=15_000))
    least = 0.9 * within.cost_range("params")[1]
    drawn = entries(run / "search/main/random.jsonl")
    history = entries(run / "search/main/history.jsonl")
    for one in [*history, *drawn, *found["random"], found["random_search"], found["winner"]]:
        assert least <= one["params"] <= 15_000
    assert found["random_search"]["rating"] == max(one["rating"] for one in drawn)
    assert len(drawn) == found["rated"]
    assert found["ahead"].keys() == {
        "house", "uniform", "best_uniform", "random", "random_search",
    }  # fmt: skip
    origins = {one["origin"] for one in history if one["generation"] == 0}
    assert "uniform" in origins


def test_the_best_uniform_network_is_the_best_of_all(
    run: Path, search: Callable[..., dict[str, Any]]
) -> None:
    found = search("--min-use", 0.5)
    space = SearchSpace.load(run / "supernet/space.json")
    candidates = BudgetedSpace(space, Budget(max_params=15_000), min_use=0.5)
    rated = entries(run / "search/main/uniforms.jsonl")
    asked = {Architecture.from_dict(one["architecture"]) for one in rated}
    assert asked == set(candidates.uniforms())
    assert found["best_uniform"]["rating"] == max(one["rating"] for one in rated)
    largest = Architecture.from_dict(found["uniform"]["architecture"])
    assert largest == candidates.largest_uniform()
    house = Architecture.from_dict(found["house"]["architecture"])
    assert (house.depth, set(house.mlp_ratio), set(house.num_heads)) == (3, {3}, {2})


def test_no_baselines(run: Path, search: Callable[..., dict[str, Any]]) -> None:
    found = search("--baselines", 0)
    assert found["random"] == []
    assert found["random_search"] is None
    assert found["best_uniform"] is None
    assert found["ahead"].keys() == {"house", "uniform"}
    assert not (run / "search/main/uniforms.jsonl").exists()
    assert not (run / "search/main/random.jsonl").exists()


def test_searches_say_what_they_found(run: Path, world: World, masktas: Call) -> None:
    tokens = ("search", "--out", run, "--config", world.recipe)
    code, out, said = masktas(*tokens, "--top-k", 2, "--max-size", "60KB")
    assert code == 0
    assert out.startswith(f"{run}/search/main is ready: ")
    for words in ("winner", "2. best", "best of random search", "largest uniform", "size",
                  "are on the front", "±"):  # fmt: skip
        assert words in said, words
    code, out, said = masktas(*tokens, "--name", "json", "--json", "--quiet")
    assert (code, said) == (0, "")
    assert 0 < json.loads(out)["winner"]["rating"] <= 1
    code, out, said = masktas(*tokens, "--population", 5)
    assert code == 2
    assert "settings.population" in said


# --- ratings


@pytest.mark.parametrize("rating", ["accuracy", "knn"])
def test_ratings_with_labels(rating: str, run: Path, search: Callable[..., dict[str, Any]]) -> None:
    found = search("--rating", rating, "--generations", 2)
    assert all(0 <= one["rating"] <= 1 for one in entries(run / "search/main/history.jsonl"))
    assert 0 <= found["winner"]["error"] < 0.5


@pytest.mark.parametrize("rating", ["reconstruction", "feature", "fusion", "params", "macs"])
def test_other_ratings(rating: str, search: Callable[..., dict[str, Any]]) -> None:
    found = search("--rating", rating, "--generations", 2, "--num-masks", 2)
    assert found["settings"]["settings"]["rating"] == rating
    if rating in ("params", "macs"):
        assert found["winner"]["rating"] == found["winner"][rating]
        assert found["winner"]["error"] is None


def test_without_labels_that_is_said(world: World, tmp_path: Path, masktas: Call) -> None:
    images = tmp_path / "flat"
    images.mkdir()
    for number, path in enumerate(sorted(world.images.rglob("*.png"))):
        os.link(path, images / f"{number}.png")
    shape = ("--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--depth", 1,
             "--num-heads", 2)  # fmt: skip
    more = ("--out", tmp_path / "run", "--config", world.recipe, "--quiet")
    assert masktas("teacher", images, *shape, "--epochs", 1, *more)[0] == 0
    assert masktas("supernet", "--epochs", 1, *more)[0] == 0
    for rating in ("accuracy", "knn"):
        code, _, said = masktas("search", "--rating", rating, *more)
        assert code == 2
        assert said.count("\n") == 1
        assert "label" in said


# --- budgets


def test_limits_relative_to_other_networks(
    run: Path, search: Callable[..., dict[str, Any]]
) -> None:
    space = SearchSpace.load(run / "supernet/space.json")
    whole = package.params(space.largest)
    found = search("--max-params", "80% of largest", "--min-macs", "smallest", name="share")
    assert found["budget"]["max_params"] == round(0.8 * whole)
    assert found["budget"]["min_macs"] == package.macs(space.smallest)
    winner = run / "search/share/architecture.json"
    again = search("--max-params", winner, name="file")
    assert again["budget"]["max_params"] == found["winner"]["params"]


@pytest.mark.slow
def test_a_budget_counts_the_decoder_of_the_segmentation(
    run: Path, world: World, masktas: Call, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(world.recipe.read_text() + '\n[segment]\nchannels = 8\nclasses = "a,b,c,d"\n')
    common = ("search", "--out", run, "--config", recipe, "--max-params", "98% of largest")
    code, said, error = masktas(*common, "--generations", 1, "--budget-counts", "all")
    assert code == 0, error
    assert "params with the decoder upernet:8" in error
    made, decoder = manifest(run / "search/main"), Decoder("upernet", 8, 4)
    settings = made["settings"]["settings"]
    assert (settings["budget_counts"], settings["num_classes"]) == ("upernet:8", 4)
    space = SearchSpace.load(world.space).replace(num_classes=0)
    whole = params(space.largest) + decoder.params(space.largest)
    for one in (made["winner"], made["uniform"], *made["front"]):
        network = Architecture.from_dict(one["architecture"])
        assert one["params"] == params(network) + decoder.params(network) <= 0.98 * whole
        assert one["macs"] == macs(network) + decoder.macs(network)
        assert network.num_classes == 0
    assert f"{format_quantity(made['winner']['params'])} parameters" in said
    assert "with the decoder upernet:8" in package.report(run).read_text()
    code, _, error = masktas(*common, "--budget-counts", "linear", "--max-memory", "1MB",
                             "--num-classes", 4, "--name", "other")  # fmt: skip
    assert code == 2
    assert "The memory of a network is known without a decoder only" in error
