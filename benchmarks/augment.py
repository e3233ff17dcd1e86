"""Batches with the augmentation of fine-tuning against timm's transform and Mixup, in turns.

Command   python benchmarks/augment.py [--size 224] [--batch 128] [--rounds 5] [--threads 1]
Shows     images/s (median over rounds that take turns) of masktas' `Batches.mixed` and of timm's
          `create_transform` and `Mixup` in one process, both from the same decoded images, for
          crop and flip, with RandAugment, and with all; and their ratio.
Limit     none: the ratio is what is claimed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.mixup import Mixup

from masktas.data.batches import Augment, Batches
from masktas.data.decode.image import decode
from masktas.data.randaugment import RandAugment
from masktas.data.store.image_store import Images, InMemory

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TABLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet1000" / "sample.parquet"
SCALE = (0.2, 1.0)
TEXT = "rand-m9-mstd0.5-inc1"


def decoded(table: Path, side: int, count: int) -> np.ndarray:
    rows = parquet.read_table(table, columns=["image"])["image"].to_pylist()[:count]
    return np.stack([decode(row["bytes"], size=(side, side), in_channels=3) for row in rows])


def with_masktas(pixels: np.ndarray, size: int, batch: int, augment: Augment) -> Callable:
    batches = Batches(
        Images(InMemory(pixels), np.arange(len(pixels)), "supernet"),
        image_size=(size, size), mean=MEAN, std=STD, batch_size=batch, seed=0,
        device=torch.device("cpu"), augment=augment,
    )  # fmt: skip
    return lambda step: batches.mixed(step).pixels


def with_timm(pixels: np.ndarray, size: int, batch: int, augment: Augment) -> Callable:
    change = create_transform(
        size, is_training=True, scale=SCALE, color_jitter=0.0, interpolation="bicubic",
        auto_augment=TEXT if augment.randaugment else None, re_prob=augment.erasing,
        re_mode="pixel", mean=tuple(MEAN), std=tuple(STD),
    )  # fmt: skip
    mixup = Mixup(augment.mixup, augment.cutmix) if augment.mixup else None
    images = [Image.fromarray(one) for one in pixels]

    def make(step: int) -> torch.Tensor:
        start = step * batch % (len(images) - batch + 1)
        made = torch.stack([change(image) for image in images[start : start + batch]])
        return made if mixup is None else mixup(made, torch.zeros(batch, dtype=torch.int64))[0]

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pixels = decoded(given.table, given.size * 8 // 7, 2 * given.batch)
    randaugment = RandAugment.parse(TEXT)
    augments = {
        "crop, flip": Augment(SCALE, True),
        "and RandAugment": Augment(SCALE, True, randaugment=randaugment),
        "and erasing, mixup, CutMix": Augment(
            SCALE, True, randaugment=randaugment, erasing=0.25, mixup=0.8, cutmix=1.0
        ),
    }
    print(f"batches of {given.batch} at {given.size}, {given.threads} threads, images/s")
    print("| augmentation | masktas | least to most | timm | least to most | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, augment in augments.items():
        ways = [
            make(pixels, given.size, given.batch, augment) for make in (with_masktas, with_timm)
        ]
        rates: list[list[float]] = [[], []]
        for step in range(given.rounds + 1):
            for way, found in zip(ways, rates, strict=True):
                began = time.perf_counter()
                way(step)
                found.append(given.batch / (time.perf_counter() - began))
        cells, middles = [], []
        for found in rates:
            warm = found[1:]
            middles.append(statistics.median(warm))
            cells.append(f"{middles[-1]:.0f} | {min(warm):.0f} to {max(warm):.0f}")
        print(f"| {name} | {' | '.join(cells)} | {middles[0] / middles[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
