"""A search as people use it: budgets, latency, strategies, ratings, racing, reuse, answers.

One tiny run as far as the supernet is made once; every test searches in a copy of it.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import masktas as package
from masktas.cli import main
from masktas.files import file_digest
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
from masktas.strategies import Exhaustive
from worlds import (
    RECIPE,
    SPACE,
    World,
    count_lines,
    draw_images,
    ended,
    manifest,
    started,
    until,
)

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
# A deterministic machine on which a latency is a sum over blocks, and heads cost the most.
ADDITIVE = """
import json, sys
one = json.load(open(sys.argv[1] + "/architecture.json"))
width = one["embed_dim"]
heads = sum(number * width / 25 for number in one["num_heads"])
time = width / 100 + heads + sum(round(width * ratio) / 400 for ratio in one["mlp_ratio"])
"""
TRUE = ADDITIVE + "print(time)\n"
# The same, but as soon as blocks differ all takes three times as long: no model of blocks knows.
MIXED = "mixed = len(set(one['num_heads'])) > 1 or len(set(one['mlp_ratio'])) > 1\n"
ERRING = ADDITIVE + MIXED + "print(time * (3 if mixed else 1))\n"
# What a model is built from is fast, whatever is measured after that is slow.
BROKEN = ADDITIVE + "import os\nprint(time * (100 if os.path.exists(sys.argv[2]) else 1))\n"
FILES = ("history.jsonl", "random.jsonl", "uniforms.jsonl", "architecture.json",
         "weights.safetensors", "house.json", "uniform.json", "best-uniform.json",
         "random-search.json", "front.json", "front.csv", "front.svg")  # fmt: skip
STRATEGIES = ("evolution", "random", "local", "nsga2", "exhaustive")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """As elsewhere, but with images enough for a race of two rounds."""
    made = World(tmp_path_factory.mktemp("wide"))
    draw_images(made.images, 430)
    made.space.write_text(json.dumps(SPACE))
    recipe = RECIPE.format(space=made.space)
    made.recipe.write_text(recipe.replace("search_share = 0.15", "search_share = 0.5"))
    return made


@pytest.fixture(scope="module")
def base(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as the supernet."""
    out = tmp_path_factory.mktemp("base") / "run"
    shape = ("--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--depth", 2,
             "--num-heads", 2)  # fmt: skip
    for tokens in (("teacher", world.images, *shape, "--epochs", 1), ("supernet", "--epochs", 1)):
        with pytest.raises(SystemExit) as end:
            main([*map(str, tokens), "--out", str(out), "--config", str(world.recipe), "--quiet"])
        assert end.value.code == 0
    return out


def copy(run: Path, to: Path) -> Path:
    """Copy a run; its large files are links."""
    return Path(shutil.copytree(run, to, copy_function=os.link))


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that times networks truly."""
    return program(tmp_path_factory.mktemp("clock"), TRUE)


@pytest.fixture(scope="module")
def timed(base: Path, clock: str, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a search `free` in it whose latency was measured, but hardly limited."""
    out = copy(base, tmp_path_factory.mktemp("timed") / "run")
    with pytest.raises(SystemExit) as end:
        main(["search", "--out", str(out), "--config", str(world.recipe), "--quiet", "--name",
              "free", "--max-latency", "1s", "--latency-command", clock])  # fmt: skip
    assert end.value.code == 0
    return out


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return copy(base, tmp_path / "run")


@pytest.fixture
def search(run: Path, world: World, masktas: Call) -> Callable[..., dict[str, Any]]:
    """Return a function that searches in the run and returns the manifest."""

    def call(*flags: object, name: str = "main", out: Path = run) -> dict[str, Any]:
        code, _, said = masktas("search", "--out", out, "--config", world.recipe, "--name", name,
                                *flags)  # fmt: skip
        assert code == 0, said
        return manifest(out / "search" / name)

    return call


@pytest.fixture
def refused(run: Path, world: World, masktas: Call) -> Callable[..., str]:
    """Return a function that searches in vain and returns the one sentence."""

    def call(*flags: object) -> str:
        code, out, said = masktas("search", "--out", run, "--config", world.recipe, "--quiet",
                                  *flags)  # fmt: skip
        assert code == 2, said
        assert out == ""
        assert said.startswith("masktas: ")
        assert said.count("\n") == 1, said
        assert not (run / "search/main/manifest.json").exists()
        return said

    return call


def program(folder: Path, text: str, *more: object) -> str:
    """Write a latency command."""
    path = folder / "time.py"
    path.write_text(text)
    return " ".join([sys.executable, "-S", str(path), "{folder}", *map(str, more)])


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(one: Path, two: Path, *names: str) -> None:
    written = [name for name in FILES if (one / name).exists()]
    assert written == [name for name in FILES if (two / name).exists()]
    assert names or {"history.jsonl", "architecture.json", "random.jsonl"} <= set(written)
    for name in names or written:
        assert file_digest(one / name) == file_digest(two / name), name


# --- latency


def test_a_tight_latency_changes_the_winner_and_the_measured_winner_keeps_it(
    timed: Path, clock: str, tmp_path: Path, search: Callable[..., dict[str, Any]]
) -> None:
    out = copy(timed, tmp_path / "timed")
    free = manifest(out / "search/free")
    assert free["winner"]["measured_latency"] == pytest.approx(free["winner"]["latency"])
    limit = 0.6 * free["winner"]["measured_latency"]
    tight = search("--max-latency", f"{limit}ms", "--latency-command", clock, out=out)
    assert tight["winner"]["architecture"] != free["winner"]["architecture"]
    assert tight["winner"]["measured_latency"] <= limit
    assert tight["uniform"]["measured_latency"] <= limit
    assert tight["random_search"]["measured_latency"] <= limit
    assert all(one["measured_latency"] <= limit for one in tight["front"])
    assert tight["objectives"] == ["params", "latency"]
    assert tight["latency_target"]["engine"] == "command"
    assert len(list((out / "latency").glob("*.json"))) == 1, "built once for both"


def test_a_function_measures_too(base: Path, world: World, tmp_path: Path) -> None:
    asked = []

    def measure(network: Any) -> float:
        asked.append(network)
        return sum(network.architecture.num_heads) + network.architecture.embed_dim / 100

    settings = package.SearchSettings(
        max_latency="4.5ms", population=8, generations=2, mask_ratio=0.75, baselines=2
    )
    run = copy(base, tmp_path / "run")
    console = package_console()
    found = package.search(out=run, settings=settings, measure=measure, console=console)
    assert len(asked) > 8
    assert found["winner"]["measured_latency"] == measure_of(found["winner"]) <= 4.5
    with pytest.raises(package.MasktasError, match="no limit on latency"):
        package.search(
            out=run,
            name="b",
            settings=package.SearchSettings(mask_ratio=0.75),
            measure=measure,
            console=console,
        )


def package_console() -> Any:
    from masktas.console import Console

    return Console(quiet=True)


def measure_of(one: dict[str, Any]) -> float:
    fields = one["architecture"]
    return float(sum(fields["num_heads"]) + fields["embed_dim"] / 100)


@pytest.mark.slow
def test_a_winner_that_breaks_the_budget_when_measured_is_dropped(
    run: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    flags = ("--max-latency", "4ms", "--latency-command", program(tmp_path, ERRING), "--top-k", 3,
             "--min-use", 0)  # fmt: skip
    code, _, said = masktas("search", "--out", run, "--config", world.recipe, *flags)
    assert code == 0
    assert "ms predicted but" in said
    found = manifest(run / "search/main")
    dropped = said.count("Dropped: rating")
    assert dropped >= 1
    measured = [one["measured_latency"] for one in found["top"]]
    assert measured
    assert max(measured) <= 4
    assert all(one["measured_latency"] <= 4 for one in found["front"])
    better = [one for one in entries(run / "search/main/history.jsonl")
              if one["rating"] > found["winner"]["rating"]]  # fmt: skip
    assert better, "what was dropped was rated higher"
    assert len({json.dumps(one["architecture"]) for one in found["top"]}) == len(found["top"])


@pytest.mark.slow
def test_when_none_keeps_the_budget_that_is_said(
    run: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    slow = tmp_path / "slow"
    command = program(tmp_path, BROKEN, slow)
    tokens = ("search", "--out", run, "--config", world.recipe, "--latency-command", command)
    assert masktas(*tokens, "--max-latency", "1s", "--name", "before")[0] == 0
    slow.touch()
    code, _, said = masktas(*tokens, "--max-latency", "4ms")
    assert code == 2
    last = said.splitlines()[-1]
    assert last.startswith("masktas: None of the best")
    assert "`masktas latency build`" in last
    assert not (run / "search/main/manifest.json").exists()
    slow.unlink()  # the machine is quiet again: what was measured while it was not does not stay
    code, _, said = masktas(*tokens, "--max-latency", "4ms")
    assert code == 0, said
    assert manifest(run / "search/main")["winner"]["measured_latency"] <= 4


# --- killed, stopped, resumed


RACED = [
    (one, race) for one in STRATEGIES for race in (False, True) if (one, race) != ("nsga2", True)
]


@pytest.mark.parametrize(("strategy", "racing"), RACED)
def test_stopped_and_resumed_it_ends_the_same(
    strategy: str, racing: bool, base: Path, world: World, tmp_path: Path, masktas: Call,
) -> None:  # fmt: skip
    flags = ("--config", world.recipe, "--strategy", strategy, "--top-k", 2, "--max-macs", "150K",
             *(("--racing", "--confidence", 1) if racing else ()))  # fmt: skip
    whole, stopped = copy(base, tmp_path / "whole"), copy(base, tmp_path / "stopped")
    assert masktas("search", "--out", whole, *flags, "--quiet")[0] == 0
    for _ in range(2):
        code, _, said = masktas("search", "--out", stopped, *flags, "--max-time", "0.01s")
        assert code == 75, said
        assert "Nothing is lost" in said
    code, _, said = masktas("search", "--out", stopped, *flags)
    assert code == 0
    assert "Resuming after" in said
    history = entries(whole / "search/main/history.jsonl")
    assert all(one["complete"] for one in history) is not racing, "racing drops some"
    assert_same(whole / "search/main", stopped / "search/main")
    assert_same(whole / "search/main/top-2", stopped / "search/main/top-2",
                "architecture.json", "weights.safetensors")  # fmt: skip
    assert manifest(stopped / "search/main")["cost"]["attempts"] == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_journal_cut_anywhere_is_gone_on_with(
    strategy: str, base: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    """What a kill leaves: a journal that ends in the middle of a line, and no manifest."""
    racing = strategy != "nsga2"
    flags = ("--config", world.recipe, "--quiet", "--strategy", strategy, "--generations", 4,
             *(("--racing", "--confidence", 1) if racing else ()))  # fmt: skip
    whole = copy(base, tmp_path / "whole")
    assert masktas("search", "--out", whole, *flags)[0] == 0
    text = (whole / "search/main/history.jsonl").read_bytes()
    for number, share in enumerate((0.3, 0.77)):
        cut = copy(base, tmp_path / f"cut-{number}")
        (cut / "search/main").mkdir(parents=True)
        shutil.copy(whole / "search/main/settings.json", cut / "search/main")
        (cut / "search/main/history.jsonl").write_bytes(text[: int(share * len(text))])
        assert masktas("search", "--out", cut, *flags)[0] == 0
        assert_same(whole / "search/main", cut / "search/main")


def test_killed_hard_in_the_middle_it_ends_the_same(
    base: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    flags = ("--config", world.recipe, "--quiet", "--generations", 15, "--racing")
    whole, killed = copy(base, tmp_path / "whole"), copy(base, tmp_path / "killed")
    assert masktas("search", "--out", whole, *flags)[0] == 0
    with started("search", "--out", killed, *flags) as process:
        until(lambda: count_lines(killed / "search/main/history.jsonl") >= 8, process)
        process.send_signal(signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
    assert not (killed / "search/main/manifest.json").exists(), "killed too late"
    assert masktas("search", "--out", killed, *flags)[0] == 0
    assert_same(whole / "search/main", killed / "search/main")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.slow
def test_two_processes_race_like_one(
    base: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    flags = ("--config", world.recipe, "--racing", "--confidence", 1)
    one, two = copy(base, tmp_path / "one"), copy(base, tmp_path / "two")
    assert masktas("search", "--out", one, *flags)[0] == 0
    with started("search", "--out", two, *flags, processes=2, errors=tmp_path / "said") as process:
        assert ended(process) == 0, (tmp_path / "said").read_text()
    for name in ("history.jsonl", "random.jsonl"):
        here, there = (entries(run / "search/main" / name) for run in (one, two))
        assert len(here) == len(there) > 0
        for mine, other in zip(here, there, strict=True):
            for number in ("rating", "error"):
                assert mine.pop(number) == pytest.approx(other.pop(number), abs=1e-6)
            assert mine == other


# --- front and history


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


def test_history_replays_to_the_same_winner(
    run: Path, search: Callable[..., dict[str, Any]]
) -> None:
    found = search()
    best = max(entries(run / "search/main/history.jsonl"), key=lambda one: one["rating"])
    assert best["architecture"] == found["winner"]["architecture"]
    (run / "search/main/manifest.json").unlink()
    again = search()
    assert again["winner"] == found["winner"]
    assert again["front"] == found["front"]


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--racing", "--confidence", 1),
        pytest.param(("--rating", "fusion"), marks=pytest.mark.slow),
    ],
)
def test_what_was_rated_before_is_not_rated_again(
    flags: tuple[object, ...], run: Path, tmp_path: Path, search: Callable[..., dict[str, Any]]
) -> None:
    flags = (*flags, "--min-use", 0)  # so that both budgets have networks in common
    first = search(*flags, name="first")
    alone = copy(run, tmp_path / "alone")
    shutil.rmtree(alone / "search/first")
    tighter = ("--max-params", "9K", *flags)
    after, fresh = search(*tighter, name="next"), search(*tighter, name="next", out=alone)
    assert first["reused"] == fresh["reused"] == 0
    assert after["rated"] >= fresh["rated"] > 0
    for name in ("winner", "house", "uniform", "best_uniform", "random_search", "random"):
        assert after[name] == fresh[name], name
    if len(flags) == 2:
        assert after["reused"] > 0
        assert after["cost"]["images"] < fresh["cost"]["images"]
        here, there = (entries(out / "search/next/history.jsonl") for out in (run, alone))
        assert [one.pop("reused", None) for one in here].count("first") == after["reused"]
        assert here == there


@pytest.mark.slow
def test_another_seed_or_other_masks_are_another_rating(
    search: Callable[..., dict[str, Any]],
) -> None:
    search(name="first")
    for number, flags in enumerate((("--mask-ratio", 0.5), ("--seed", 3), ("--num-images", 20))):
        assert search(*flags, name=f"other-{number}")["reused"] == 0
    assert search("--batch-size", 3, name="same")["reused"] > 0


# --- answers


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


# --- refused


IMPOSSIBLE = [
    ("--max-params 100", "params go from 4.54K to"),
    ("--min-params 9K --max-macs 110K", "No network"),
    ("--max-size 1KB", "size goes from"),
    ("--max-memory 1B", "memory goes from"),
    ("--max-params 9K --min-size 1MB --max-memory 10GB", "No network"),
    ("--min-params 90%_of_largest --max-params 10%_of_largest", "is above --max-params"),
]


@pytest.mark.parametrize(("flags", "words"), IMPOSSIBLE)
def test_an_impossible_mix_is_refused_with_what_is_possible(
    flags: str, words: str, refused: Callable[..., str]
) -> None:
    said = refused(*(flag.replace("_", " ") for flag in flags.split()))
    assert words in said


@pytest.mark.parametrize("verb", ["search", "validate"])
def test_an_impossible_mix_is_refused_before_torch_is_loaded(
    verb: str, base: Path, tmp_path: Path
) -> None:
    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    said, before = tmp_path / "said", seconds()
    with started(verb, "--out", base, "--max-params", "100", errors=said) as process:
        assert ended(process) == 2
    assert seconds() - before < 1.5, "torch alone takes longer"
    assert "params go from" in said.read_text()


HOSTILE = [
    ("--max-latency", "five"), ("--max-latency", "0ms"), ("--max-latency", "-1ms"),
    ("--max-latency", "nan"), ("--max-latency", "1e999ms"), ("--max-size", "-3MB"),
    ("--max-size", "20 bananas"), ("--max-memory", "infMB"), ("--max-params", "80% of"),
    ("--max-params", "80% of tallest"), ("--max-params", "0% of largest"),
    ("--max-params", "80% of /nowhere/architecture.json"), ("--max-params", "9" * 5000),
    ("--max-params", "80% of uniform:0x0"), ("--export-precision", "int8"),
    ("--rating", "beauty"), ("--strategy", "luck"), ("--objectives", "params,beauty"),
    ("--objectives", ""), ("--top-k", 0), ("--top-k", "many"), ("--patience", -1),
    ("--confidence", 0), ("--confidence", "nan"), ("--num-masks", 0), ("--diversity", -1),
    ("--prefix-memory", "lots"), ("--prefix-memory", "-1GB"), ("--baselines", -1),
    ("--mask-ratio", 1), ("--population", 0), ("--latency-engine", "steam"),
    ("--latency-threads", 0), ("--latency-batch", -1), ("--latency-precision", "int4"),
    ("--num-classes", -1),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "value"), HOSTILE)
def test_a_hostile_value_is_one_sentence(
    flag: str, value: object, refused: Callable[..., str]
) -> None:
    said = refused(f"{flag}={value}")
    assert flag.removeprefix("--").partition("-")[2].split("-")[-1] in said
    assert len(said) < 1000


def test_too_many_to_rate_them_all(
    run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masktas.stages.search.runner.Exhaustive", partial(Exhaustive, limit=50))
    assert "137 architectures" in refused("--strategy", "exhaustive", "--min-use", 0)
    assert not (run / "search").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--racing --strategy nsga2", "nsga2 also keeps those with low"),
        ("--racing --rating accuracy", "cannot rate on a few"),
        ("--racing --rating params", "cannot rate on a few"),
        ("--rating reconstruction --mask-ratio 0", "leaves nothing to reconstruct"),
        ("--max-latency 5ms --latency {run}/nowhere.json", "nowhere.json"),
        ("--max-latency 5ms --latency {run}/damaged.json", "damaged.json"),
        ("--max-latency 5ms --latency {run}/empty.json", "empty.json"),
        ("--max-latency 5ms --latency {run}/supernet/space.json", "space.json"),
        ("--max-latency 5ms --latency-device mars", "mars"),
        ("--max-latency 5ms --latency-command false", "exit code 1"),
        ("--max-latency 5ms --latency-command echo", "not milliseconds above 0"),
        ("--max-latency 5ms --latency-command true --latency-batch 0", "latency-batch"),
        ("--max-latency 5ms --latency-engine onnxruntime --latency-precision bf16", "bf16"),
        ("--max-latency 5ms --latency-precision int8", "engine eager has no int8"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    flags: str, words: str, run: Path, refused: Callable[..., str]
) -> None:
    (run / "damaged.json").write_text('{"stem": {"16": ')
    (run / "empty.json").write_text("{}")
    assert words in refused(*flags.format(run=run).split())


def test_a_latency_model_of_another_space_is_refused(
    timed: Path, tmp_path: Path, refused: Callable[..., str], search: Callable[..., dict[str, Any]]
) -> None:
    model = next((timed / "latency").glob("*.json"))
    found = search("--latency", model, "--max-latency", "4ms", "--generations", 1, name="b")
    assert found["winner"]["measured_latency"] <= 4
    fields = json.loads(model.read_text())
    fields["fixed"]["image_size"] = [32, 32]
    (tmp_path / "other.json").write_text(json.dumps(fields))
    said = refused("--latency", tmp_path / "other.json", "--max-latency", "4ms")
    assert "other" in said or "image_size" in said


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
