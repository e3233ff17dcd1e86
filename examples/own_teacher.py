"""A Python function as the teacher: students learn to predict gradient histograms of patches.

Any function from images and patch numbers to one vector for each patch can teach, a
`torch.nn.Module` too. Here it computes histograms of oriented gradients, so no teacher is
pre-trained. Images are drawn by this script and have no labels.

    python examples/own_teacher.py --out runs/own-teacher

Takes about 10 seconds on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import masktas

PATCH, BINS = 4, 8
SPACE = {
    "name": "stripes",
    "embed_dim": [16, 24],
    "depth": [2, 3],
    "num_heads": [1, 2],
    "mlp_ratio": [2, 3],
    "head_dim": 8,
    "image_size": 16,
    "patch_size": PATCH,
}


def gradient_histograms(images: Tensor, ids_keep: Tensor) -> Tensor:
    """Return histograms of oriented gradients `[B, V, BINS]` of the visible patches.

    Args:
        images: `[B, C, H, W]`, normalised as the students see them.
        ids_keep: `[B, V]`, numbers of the visible patches, row by row from the top left.
    """
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]  # [B, 1, H, W]
    down = grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]  # [B, 1, H, W]
    angle = torch.atan2(down, across) % math.pi
    bins = (angle / math.pi * BINS).long().clamp(max=BINS - 1).squeeze(1)  # [B, H, W]
    strength = torch.hypot(across, down)  # [B, 1, H, W]
    votes = F.one_hot(bins, BINS).movedim(-1, 1) * strength  # [B, BINS, H, W]
    tokens = F.avg_pool2d(votes, PATCH).flatten(2).transpose(1, 2)  # [B, N, BINS]
    return tokens.gather(1, ids_keep[..., None].expand(-1, -1, BINS))


def draw_stripes(folder: Path, count: int) -> None:
    """Write images of stripes in random directions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    for number in range(count):
        turn = rng.uniform(0, math.pi)
        waves = np.sin(math.cos(turn) * columns + math.sin(turn) * rows + rng.uniform(0, 6))
        pixels = (
            128 + 80 * waves[..., None] * rng.uniform(0.4, 1, 3) + rng.normal(0, 8, (16, 16, 3))
        )
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")


def main() -> None:
    """Train a supernet taught by the function, search it and print the winner."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/own-teacher"))
    out = parser.parse_args().out

    draw_stripes(out / "images", 240)
    space = out / "space.json"
    space.write_text(json.dumps(SPACE))

    trained = masktas.supernet(
        out / "images",
        out=out / "run",
        data_settings=masktas.DataSettings(search_share=0.2),
        settings=masktas.SupernetSettings(
            space=str(space), epochs=10, batch_size=32, decoder_dim=32, mask_ratio=0.6
        ),
        teacher=gradient_histograms,
        overwrite=True,
    )
    found = masktas.search(
        out=out / "run",
        settings=masktas.SearchSettings(
            max_params="30K", mask_ratio=0.6, population=8, generations=4, baselines=2
        ),
        teacher=gradient_histograms,  # a function cannot be stored in the run: give it again
        overwrite=True,
    )

    winner = found["winner"]
    print(f"Supernet trained on {trained['images']['splits']['supernet']['images']} images")
    print(f"Winner: {winner['params']:,} parameters, rating {winner['rating']:.4f}")
    for one in found["random"]:
        print(f"Random: {one['params']:,} parameters, rating {one['rating']:.4f}")


if __name__ == "__main__":
    main()
