"""A stage killed at any moment goes on when the same command is given, to the same end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from masktas.files import file_digest
from worlds import World, start

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]


def kill_when_begun(log: Path, lines: int, *tokens: object) -> None:
    """Start a command and kill it, hard, once its log has that many lines."""
    process = start(*tokens)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            break
        assert process.poll() is None, f"ended by itself with {process.returncode}"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_stages_go_on_to_bit_identical_ends(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # long enough that the kill comes before the end
    more = ("--config", world.recipe, "--quiet")
    stages = (
        ("teacher", "teacher", "teacher/metrics.jsonl", (world.images, "--patch-size", 4,
            "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2,
            "--epochs", 8)),
        ("supernet", "supernet", "supernet/metrics.jsonl", ("--epochs", 8)),
        ("search", "search/main", "search/main/history.jsonl", ("--generations", 10)),
        ("finetune", "finetune/main", "finetune/main/metrics.jsonl", ("--epochs", 8)),
    )  # fmt: skip
    for verb, folder, log, flags in stages:
        assert masktas(verb, *flags, "--out", whole, *more)[0] == 0
        kill_when_begun(killed / log, 3, verb, *flags, "--out", killed, *more)
        assert not (killed / folder / "manifest.json").exists(), f"{verb} was killed too late"
        code, _, said = masktas(verb, *flags, "--out", killed, "--config", world.recipe)
        assert code == 0
        assert "Resuming" in said, verb
        for name in ("weights.safetensors", Path(log).name):
            assert file_digest(whole / folder / name) == file_digest(killed / folder / name), verb
