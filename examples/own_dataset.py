"""A Python data set object as the images: from pixels in memory to a fine-tuned network.

Any object with `__len__` and `__getitem__` is a data set: a torch `Dataset`, a list, an array.
An item is an image (Pillow, an array `[H, W, C]`, a tensor `[C, H, W]`, encoded bytes, a path) or
a tuple of an image and its label. Labels are not read before fine-tuning.

    python examples/own_dataset.py --out runs/own-dataset

Takes about 15 seconds on one CPU core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import masktas

SPACE = {
    "name": "shapes",
    "embed_dim": [16, 24],
    "depth": [2, 3],
    "num_heads": [1, 2],
    "mlp_ratio": [2, 3],
    "head_dim": 8,
    "image_size": 16,
    "patch_size": 4,
    "num_classes": 3,
}


class Shapes:
    """Images `[16, 16, 3]` of a disc, a bar or a cross, drawn when they are asked for."""

    names = ("disc", "bar", "cross")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        rng = np.random.default_rng(index)  # the same image each time it is asked for
        rows, columns = np.mgrid[:16, :16] - rng.integers(5, 11, 2)[:, None, None]
        shape = (
            rows**2 + columns**2 <= 16,
            (abs(rows) <= 1) & (abs(columns) <= 5),
            (abs(rows) <= 1) & (abs(columns) <= 4) | (abs(columns) <= 1) & (abs(rows) <= 4),
        )[index % 3]
        background, color = rng.integers(0, 90, 3), rng.integers(150, 256, 3)
        pixels = np.where(shape[..., None], color, background) + rng.normal(0, 6, (16, 16, 3))
        return pixels.clip(0, 255).astype(np.uint8), self.names[index % 3]


def main() -> None:
    """Go from the data set to a fine-tuned network and print what it reaches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/own-dataset"))
    out = parser.parse_args().out

    out.mkdir(parents=True, exist_ok=True)
    space = out / "space.json"
    space.write_text(json.dumps(SPACE))

    settings = masktas.AllSettings(
        data=masktas.DataSettings(search_share=0.15, test_share=0.2),
        teacher=masktas.TeacherSettings(epochs=10, batch_size=32, decoder_dim=32),
        supernet=masktas.SupernetSettings(
            space=str(space), epochs=10, batch_size=32, decoder_dim=32, mask_ratio=0.6
        ),
        search=masktas.SearchSettings(
            max_params="15K", mask_ratio=0.6, population=8, generations=4, baselines=0
        ),
        finetune=masktas.FinetuneSettings(recipe="plain", epochs=20, batch_size=32, lr=1e-2),
    )
    made = masktas.run(Shapes(360), out=out / "run", settings=settings, overwrite=True)

    tuned = made["finetune/main"]
    network = masktas.load(out / "run/finetune/main")  # a plain torch.nn.Module
    logits = network(torch.zeros(1, 3, 16, 16))
    print(f"Classes: {', '.join(tuned['classes'])}")
    print(f"Winner: {made['search']['winner']['params']:,} parameters")
    print(f"Top-1 on the test split: {tuned['test']['top1']:.1%}")
    print(f"One image gives logits of shape {tuple(logits.shape)}")


if __name__ == "__main__":
    main()
