"""Small networks are fine-tuned side by side, by processes that end and resume with the run."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from masktas.files import file_digest
from worlds import (
    PATIENCE,
    PYTHON,
    World,
    count_lines,
    descendants,
    ended,
    manifest,
    names,
    start,
    started,
    until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # test_whole_way has what is quick
FILES = ("weights.safetensors", "last.safetensors", "metrics.jsonl", "validation.jsonl")


def command(world: World, out: Path) -> tuple[object, ...]:
    more = ("--finetune-seeds", 3, "--no-refine", "--config", world.recipe)
    return ("run", world.images, "--out", out, *more)


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one thread, which fine-tunes one network after the other."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(*command(world, folder / "run"), errors=folder / "said")
    assert ended(process) == 0, (folder / "said").read_text()
    assert "at once" not in (folder / "said").read_text()
    return folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same before it is fine-tuned, and two threads for all processes to come."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    return shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("finetune"))


def assert_identical(whole: Path, run: Path) -> None:
    assert names(whole / "finetune") == names(run / "finetune")
    for name in names(whole / "finetune"):
        one, other = (folder / "finetune" / name for folder in (whole, run))
        assert manifest(other)["cost"]["threads"] == 1
        assert manifest(one)["test"] == manifest(other)["test"]
        for file in filter(lambda file: (one / file).exists(), FILES):
            assert file_digest(one / file) == file_digest(other / file), f"{name}/{file}"


def finish(world: World, run: Path) -> str:
    """Give the command once more; return what it says."""
    said = run.with_name("last-words")
    with started(*command(world, run), errors=said, launcher=PYTHON) as process:
        assert ended(process) == 0, said.read_text()
    return said.read_text()


def gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.01)


def test_stopped_and_resumed_they_end_as_one_after_the_other(
    world: World, whole: Path, run: Path, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    log = run / "finetune/main-seed-1/metrics.jsonl"
    with started(*command(world, run), errors=said, launcher=PYTHON) as process:
        until(lambda: count_lines(log) >= 3, process)
        pids = descendants(process.pid)
        process.terminate()
        assert ended(process) == 128 + signal.SIGTERM, said.read_text()
        gone(pids)
    text = said.read_text()
    assert text.count("of 3 fine-tunings, on SIGTERM. Nothing is lost") == 1, text
    assert any((run / "finetune/main-seed-1/checkpoints").iterdir())
    text = finish(world, run)
    assert "main-seed-1: Resuming from step" in text
    assert "2 at once." in text
    assert_identical(whole, run)


def test_a_signal_to_all_of_them_is_one_to_the_run(
    world: World, whole: Path, run: Path, tmp_path: Path
) -> None:
    """As batch queues send it."""
    said, log = tmp_path / "said", run / "finetune/main/metrics.jsonl"
    more = {"errors": said, "launcher": PYTHON, "preexec": os.setpgrp}
    for is_begun in (lambda pids: len(pids) == 2, lambda _: count_lines(log) >= 2):
        with started(*command(world, run), **more) as process:
            until(lambda begun=is_begun: begun(descendants(process.pid)), process)
            pids = descendants(process.pid)
            os.killpg(process.pid, signal.SIGTERM)
            assert ended(process) == 128 + signal.SIGTERM, said.read_text()
            gone(pids)
        assert "Traceback" not in said.read_text()
        assert said.read_text().count("on SIGTERM. Nothing is lost") == 1
    assert any((run / "finetune/main/checkpoints").iterdir())
    finish(world, run)
    assert_identical(whole, run)


def test_a_killed_process_is_told_of_and_costs_nothing_else(
    world: World, whole: Path, run: Path, tmp_path: Path
) -> None:
    said, log = tmp_path / "said", run / "finetune/main/metrics.jsonl"
    with started(*command(world, run), errors=said, launcher=PYTHON) as process:
        until(lambda: count_lines(log) >= 2, process)
        pids = descendants(process.pid)
        os.kill(pids[0], signal.SIGKILL)
        assert ended(process) == 2, said.read_text()
        gone(pids)
    assert "was killed by signal 9, perhaps for want of memory" in said.read_text()
    finish(world, run)
    assert_identical(whole, run)


def test_they_do_not_outlive_the_run(world: World, whole: Path, run: Path, tmp_path: Path) -> None:
    said, log = tmp_path / "said", run / "finetune/main/metrics.jsonl"
    with started(*command(world, run), errors=said, launcher=PYTHON) as process:
        until(lambda: count_lines(log) >= 2, process)
        pids = descendants(process.pid)
        process.kill()
        process.wait()
        gone(pids)
    assert "Traceback" not in said.read_text()
    finish(world, run)
    assert_identical(whole, run)


def test_images_without_labels_leave_fine_tuning_out(
    world: World, run: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in world.images.rglob("*.png"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    said, out = tmp_path / "said", tmp_path / "unlabelled"
    words = ("run", flat, *command(world, out)[2:])
    with started(*words, errors=said, launcher=PYTHON) as process:
        assert ended(process) == 0, said.read_text()
    assert said.read_text().count("Fine-tuning is left out") == 1
    assert not list(out.glob("finetune/*/weights.safetensors"))
