"""A short one of `benchmarks/torture.py`: killed at random moments, not a byte is different."""

from __future__ import annotations

import signal
from pathlib import Path
from types import ModuleType

import pytest

from scripts import imported
from worlds import Process, start

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def torture() -> ModuleType:
    return imported("torture")


@pytest.mark.slow
def test_killed_at_random_moments_not_a_byte_is_different(
    torture: ModuleType, tmp_path: Path
) -> None:
    def begin(tokens: list[str], said: Path) -> Process:
        return start(*tokens, errors=said)

    world = torture.World(tmp_path, begin=begin, images=120, epochs=5, generations=20)
    heard: list[str] = []
    outcome = torture.torture(world, kills=4, terms=0, seed=1, say=heard.append)
    assert not outcome.problems, "\n".join([*heard, *outcome.problems])
    assert len(outcome.kills(signal.SIGKILL)) >= 4
    assert any(hit.kept for hit in outcome.hits), "some fell into the work"


@pytest.mark.parametrize("damage", ["more", "less", "other"])
def test_a_difference_is_seen(damage: str, torture: ModuleType, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name / "teacher").mkdir(parents=True)
        (tmp_path / name / "teacher/metrics.jsonl").write_text('{"step": 1}\n')
        (tmp_path / name / "teacher/ledger.jsonl").write_text(name)
    assert torture.differences(tmp_path / "whole", tmp_path / "killed") == []
    there = tmp_path / "killed/teacher"
    if damage == "more":
        (there / ".weights.safetensors.7.tmp").write_bytes(b"")
    elif damage == "less":
        (there / "metrics.jsonl").unlink()
    else:
        (there / "metrics.jsonl").write_text('{"step": 2}\n')
    assert len(torture.differences(tmp_path / "whole", tmp_path / "killed")) == 1
