"""A tiny world for torture.py: images, a recipe, and processes of masktas in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SPACE = {
    "name": "torture",
    "embed_dim": [16, 24, 32],
    "depth": [2, 3],
    "num_heads": [1, 2, 3],
    "mlp_ratio": [2, 3, 4],
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
checkpoint_seconds = {checkpoint_seconds}
[teacher]
epochs = {epochs}
batch_size = 16
decoder_dim = 32
patch_size = 4
embed_dim = 32
depth = 2
num_heads = 2
[supernet]
space = "{space}"
mask_ratio = 0.75
epochs = {epochs}
batch_size = 16
decoder_dim = 32
[search]
max_params = "30K"
mask_ratio = 0.75
population = 8
generations = {generations}
parents = 4
baselines = 2
[finetune]
epochs = {epochs}
batch_size = 16
cutmix = 1.0
ema = 0.9
"""
VERBS = ("teacher", "supernet", "search", "finetune")
FOLDERS = {"search": "search/main", "finetune": "finetune/main"}


def environment() -> dict[str, str]:
    """Return the environment of a process: one thread, and imports that are compiled but once."""
    bytecode = Path(tempfile.gettempdir()) / f"masktas-bytecode-{os.getuid()}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(bytecode)}


def begin_process(tokens: list[str], said: Path) -> subprocess.Popen[bytes]:
    """Start masktas in a new interpreter; its standard error goes to a file."""
    with open(said, "wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "masktas", *tokens],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


@dataclass(frozen=True)
class World:
    """A folder with images and a recipe, how long its stages are, and how processes are started."""

    folder: Path
    images: int = 400
    epochs: int = 30
    generations: int = 90
    checkpoint_seconds: float = 0.1
    begin: Callable[[list[str], Path], subprocess.Popen[bytes]] = begin_process

    def make(self) -> None:
        """Draw images large enough that decoding them takes a while, and write the recipe."""
        rng = np.random.default_rng(0)
        side = np.linspace(0, 6, 256)
        for number in range(self.images):
            kind, (a, b) = number % 3, rng.uniform(0.5, 2, 2)
            waves = (np.sin(a * side) + np.cos(b * side)[:, None], np.sin(a * side * side[:, None]),
                     np.cos(a * side + b * side[:, None]))[kind]  # fmt: skip
            pixels = 128 + 60 * waves[..., None] + rng.normal(0, 9, (256, 256, 3))
            path = self.folder / f"images/{kind}/{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, compress_level=1)
        space = self.folder / "space.json"
        space.write_text(json.dumps(SPACE))
        recipe = RECIPE.format(
            space=space,
            epochs=self.epochs,
            generations=self.generations,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        (self.folder / "recipe.toml").write_text(recipe)

    def tokens(self, verb: str, out: Path) -> list[str]:
        """Return the command line of a stage, without the program."""
        data = [str(self.folder / "images"), "--image-size", "16"] if verb == "teacher" else []
        recipe = str(self.folder / "recipe.toml")
        return [verb, *data, "--out", str(out), "--config", recipe, "--quiet"]
