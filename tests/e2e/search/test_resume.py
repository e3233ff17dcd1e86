"""A search that is stopped, killed or repeated ends as the uninterrupted one, rating none twice."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from searches import Call, assert_same, copy, entries
from worlds import World, count_lines, ended, manifest, started, until

pytestmark = pytest.mark.e2e


# --- killed, stopped, resumed


STRATEGIES = ("evolution", "random", "local", "nsga2", "exhaustive")
# all strategies by themselves are killed after any line in tests/strategies
QUICK = ("evolution", "exhaustive")


def quick_or_slow(*values: object, quick: bool) -> Any:
    """Return the parameters of a test that `make test` runs, or `make all` alone."""
    return pytest.param(*values, marks=() if quick else pytest.mark.slow)


RACED = [
    quick_or_slow(one, race, quick=(one, race) in (("evolution", True), ("exhaustive", False)))
    for one in STRATEGIES
    for race in (False, True)
    if (one, race) != ("nsga2", True)
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


@pytest.mark.parametrize("strategy", [quick_or_slow(one, quick=one in QUICK) for one in STRATEGIES])
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


# --- history


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
        pytest.param(("--racing", "--confidence", 1), marks=pytest.mark.slow),
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


def test_what_it_rated_itself_before_a_stop_counts_as_its_own(
    run: Path, search: Callable[..., dict[str, Any]]
) -> None:
    """Also where another search has rated the same networks in the meantime."""
    first = search(name="first")
    shutil.copytree(run / "search/first", run / "search/second")
    (run / "search/second/manifest.json").unlink()
    second = search(name="second")
    assert second["reused"] == 0
    assert second["cost"]["images"] == first["cost"]["images"] > 0


def test_sizes_are_not_reused_since_they_count_the_head(
    search: Callable[..., dict[str, Any]],
) -> None:
    flags = ("--rating", "params", "--min-use", 0, "--max-params", "99K")
    search(*flags, "--num-classes", 10, name="small")
    large = search(*flags, "--num-classes", 1000, name="large")
    assert large["reused"] == 0
    assert large["winner"]["rating"] == large["winner"]["params"]


@pytest.mark.slow
def test_another_seed_or_other_masks_are_another_rating(
    search: Callable[..., dict[str, Any]],
) -> None:
    search(name="first")
    for number, flags in enumerate((("--mask-ratio", 0.5), ("--seed", 3), ("--num-images", 20))):
        assert search(*flags, name=f"other-{number}")["reused"] == 0
    assert search("--batch-size", 3, name="same")["reused"] > 0
