"""A search within a budget of latency, by a command, a function or a saved model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import masktas as package
from searches import ADDITIVE, Call, copy, entries, program
from worlds import World, manifest

pytestmark = pytest.mark.e2e


# The same, but as soon as blocks differ all takes three times as long: no model of blocks knows.
MIXED = "mixed = len(set(one['num_heads'])) > 1 or len(set(one['mlp_ratio'])) > 1\n"
ERRING = ADDITIVE + MIXED + "print(time * (3 if mixed else 1))\n"
# What a model is built from is fast, whatever is measured after that is slow.
BROKEN = ADDITIVE + "import os\nprint(time * (100 if os.path.exists(sys.argv[2]) else 1))\n"


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
