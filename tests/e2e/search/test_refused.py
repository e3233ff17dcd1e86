"""What a search refuses, in one sentence: impossible budgets, hostile values, contradictions."""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from masktas.strategies import Exhaustive
from worlds import ended, started

pytestmark = pytest.mark.e2e


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
