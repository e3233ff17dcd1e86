"""A small world: shapes in three colours, a space of small networks, and ways to call masktas."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from forked import Forked

Found = TypeVar("Found")
Process = subprocess.Popen[bytes] | Forked
PYTHON = (sys.executable,)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
PATIENCE = 120.0  # seconds: a job that takes longer hangs
SPACE = {
    "name": "small-world",
    "embed_dim": [16, 24],
    "depth": [2, 3],
    "num_heads": [1, 2],
    "mlp_ratio": [2, 3],
    "head_dim": 8,
    "image_size": 16,
    "patch_size": 4,
    "num_classes": 3,
}
RECIPE = """
[data]
search_share = 0.15
validation_share = 0.1
test_share = 0.2

[runtime]
checkpoint_seconds = 0

[teacher]
epochs = 4
batch_size = 16
decoder_dim = 32

[supernet]
space = "{space}"
mask_ratio = 0.75
epochs = 4
batch_size = 16
decoder_dim = 32

[search]
max_params = "15K"
mask_ratio = 0.75
population = 8
generations = 4
parents = 4
baselines = 2

[refine]
rounds = "1,1,1"
cohort = 4
diversity = 1
pixel_rounds = 1

[finetune]
recipe = "plain"
epochs = 4
batch_size = 16
lr = 1e-2
"""


@dataclass(frozen=True)
class World:
    """A fresh folder with images, a space file and a recipe."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def space(self) -> Path:
        return self.folder / "space.json"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"


def draw_images(folder: Path, count: int, seed: int = 0) -> None:
    """Draw circles, squares and crosses, each class in a folder of its own, of mixed sizes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = ("circle", "cross", "square")[number % 3]
        side = int(rng.integers(14, 30))
        image = Image.new("RGB", (side, side + number % 4), tuple(rng.integers(0, 90, 3)))
        draw, color = ImageDraw.Draw(image), tuple(rng.integers(150, 256, 3))
        left, top = (int(v) for v in rng.integers(1, 5, 2))
        box = (left, top, left + 8, top + 8)
        if kind == "circle":
            draw.ellipse(box, fill=color)
        elif kind == "square":
            draw.rectangle(box, fill=color)
        else:
            draw.line(box, fill=color, width=2)
            draw.line((box[0], box[3], box[2], box[1]), fill=color, width=2)
        path = folder / kind / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def start(
    *tokens: object,
    errors: Path | None = None,
    output: Path | None = None,
    processes: int = 0,
    restarts: int = 0,
    launcher: tuple[object, ...] | None = None,
    preexec: Callable[[], None] | None = None,
) -> Process:
    """Start the command line as a process of its own.

    Args:
        tokens: what comes after `masktas`.
        errors, output: files for its standard error and standard output.
        processes: how many torchrun's agent starts of it, 0 without torchrun.
        restarts: how often that agent starts them again.
        launcher: a command that runs the module in a new interpreter: Python, or torchrun. By
            default the process is forked from one in which all imports are done.
        preexec: is called in a new interpreter's process before it becomes masktas.
    """
    errors, output = errors or Path(os.devnull), output or Path(os.devnull)
    if launcher is None and preexec is None:
        given = [str(token) for token in tokens]
        return Forked(given, errors=errors, output=output, processes=processes, restarts=restarts)

    def prepare() -> None:
        # a shell starts its background jobs, a test run among them, with SIGINT ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if preexec is not None:
            preexec()

    with open(errors, "wb") as said, open(output, "wb") as printed:
        return subprocess.Popen(
            [*map(str, launcher or PYTHON), "-m", "masktas", *map(str, tokens)],
            stdout=printed,
            stderr=said,
            # with little room Python would leave cut .pyc files for all that come later
            env=os.environ | ({} if preexec is None else {"PYTHONDONTWRITEBYTECODE": "1"}),
            preexec_fn=prepare,
        )


@contextmanager
def started(*tokens: object, **more: Any) -> Iterator[Process]:
    """Start the command line; whatever happens, nothing of it is left behind."""
    process = start(*tokens, **more)
    try:
        yield process
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            if process.poll() is None or pid != process.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        process.wait()


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have."""
    return [one for child in children(pid) for one in (*descendants(child), child)]


def children(pid: int) -> list[int]:
    """Return the processes that a process has started itself, the first one first."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def worker(job: Process, rank: int) -> int:
    """Return the process of a job of torchrun that has a rank: it starts them in that order."""
    return children(job.pid)[rank]


def until(found: Callable[[], Found], process: Process) -> Found:
    """Wait until something is true while a process is at work, and return it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        assert process.poll() is None, f"ended by itself with {process.returncode}"
        time.sleep(0.002)
    raise AssertionError("it did not happen in time")


def ended(process: Process) -> int:
    """Return the exit code of a process that comes to its end now."""
    return process.wait(PATIENCE)


def count_lines(log: Path) -> int:
    """Count the lines of a file, 0 where there is none."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def names(folder: Path) -> list[str]:
    """List a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def without_advice(said: str) -> str:
    """Leave out what is said of few images, which every small world has."""
    return "".join(line for line in said.splitlines(keepends=True) if "small-data" not in line)


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def every_entry(module: Any) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return edges around every single entry: the literal reading of "every entry counts"."""
    return {
        name: tuple(tuple(range(1, size + 1)) for size in parameter.shape)
        for name, parameter in module.named_parameters()
    }
