"""A disk that is full: one sentence that names what, nothing torn, and on when there is room."""

from __future__ import annotations

import gc
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from masktas.files import file_digest
from masktas.train import checkpoint
from worlds import World, ended, started, without_advice

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
SHAPE = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)
FOLDERS = {
    "teacher": "teacher",
    "supernet": "supernet",
    "search": "search/main",
    "finetune": "finetune/main",
}
DISK = 6 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(room: int, disk: Path) -> None:
    """Fill a disk but for so many bytes, or make room."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    with open(ballast, "wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - room)))


def command(verb: str, world: World, out: Path) -> tuple[object, ...]:
    given = (world.images, *SHAPE) if verb == "teacher" else ()
    return (verb, *given, "--out", out, "--config", world.recipe, "--quiet")


def whole_checkpoints(folder: Path) -> list[int]:
    """Return the steps of the checkpoints; each can be read, or this fails."""
    paths = sorted((folder / "checkpoints").glob("step-*"))
    return [int(checkpoint.load(path)[1]["step"]) for path in paths]


def files(folder: Path) -> dict[Path, str]:
    return {path: file_digest(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_every_stage_waits_for_room_and_ends_the_same(
    world: World, disk: Path, tmp_path: Path, masktas: Call
) -> None:
    out, whole = disk / "run", tmp_path / "whole"
    fell: dict[str, set[str]] = {}
    for verb, name in FOLDERS.items():
        assert masktas(*command(verb, world, whole))[0] == 0
        sizes = [path.stat().st_size for path in (whole / name).iterdir() if path.is_file()]
        earlier = files(out)
        # from nothing at all to nearly enough: another file is in the way each time
        for share in (0, 0.02, 0.1, 0.3, 0.6, 1, 2, 4, 7):
            leave(int(share * max(sizes)), disk)
            code, printed, said = masktas(*command(verb, world, out))
            if code == 0:
                break
            assert (code, printed) == (2, ""), said
            *warnings, sentence = without_advice(said).splitlines()
            assert all("TensorBoard" in warning for warning in warnings), said
            assert sentence.startswith(f"masktas: {disk}"), said
            assert "No space left on device" in sentence or "the disk has" in sentence, said
            fell.setdefault(verb, set()).add(re.sub(r"\d+", "N", sentence.split(":")[1]))
            steps = whole_checkpoints(out / name)
            if steps and verb != "search":
                assert f"The checkpoint of step {steps[-1]} is whole." in sentence
            assert files(out).items() >= earlier.items(), "earlier files are whole"
            assert not list(disk.rglob("*.tmp")), said
        (disk / "ballast").unlink()
        assert masktas(*command(verb, world, out))[0] == 0
        for path in (whole / name).iterdir():
            if path.suffix in (".safetensors", ".png") or path.stem in ("metrics", "history"):
                assert file_digest(path) == file_digest(out / name / path.name), path
    assert set(fell) == set(FOLDERS), "each was in want of room"


@pytest.mark.slow
def test_a_quota_on_files_is_told_too(world: World, tmp_path: Path, masktas: Call) -> None:
    out, said = tmp_path / "run", tmp_path / "said"

    def few_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    tokens = command("teacher", world, out)
    # the images are decoded already: they are larger than that
    assert masktas(*tokens, "--max-time", "0.001s")[0] == 75
    gc.collect()  # the folder is locked as long as this process holds the stage's objects
    before = whole_checkpoints(out / "teacher")
    with started(*tokens, errors=said, preexec=few_bytes) as process:
        assert ended(process) == 2, said.read_text()
    text = without_advice(said.read_text())
    assert text.count("\n") == 1, text
    assert "checkpoints/step-" in text
    assert f"The checkpoint of step {before[-1]} is whole." in text
    assert whole_checkpoints(out / "teacher") == before
    assert masktas(*tokens)[0] == 0
    assert masktas(*command("teacher", world, tmp_path / "whole"))[0] == 0
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert file_digest(out / "teacher" / name) == file_digest(tmp_path / "whole/teacher" / name)
