"""A small world: shapes in three colours, a space of small networks, and ways to call masktas."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

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

[finetune]
epochs = 4
batch_size = 16
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


def draw_images(folder: Path, count: int) -> None:
    """Draw circles, squares and crosses, each class in a folder of its own, of mixed sizes."""
    rng = np.random.default_rng(0)
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


def start(*tokens: object, errors: Path | None = None) -> subprocess.Popen[bytes]:
    """Start the command line as a process of its own; its standard error may go to a file."""
    with open(errors or "/dev/null", "wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "masktas", *map(str, tokens)],
            stdout=subprocess.DEVNULL,
            stderr=said,
            # a shell starts its background jobs, a test run among them, with SIGINT ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def every_entry(module: Any) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return edges around every single entry: the literal reading of "every entry counts"."""
    return {
        name: tuple(tuple(range(1, size + 1)) for size in parameter.shape)
        for name, parameter in module.named_parameters()
    }
