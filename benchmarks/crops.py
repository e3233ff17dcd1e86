"""Batches from stored bytes against torchvision's ImageFolder with a DataLoader; ways of cropping.

Command   python benchmarks/crops.py [--table images.parquet] [--side 256] [--size 224] [--rounds 5]
Shows     1. images/s of whole batches (read, crop, flip, normalise), medians over rounds that take
          turns, and their ratio to the loader's best worker count, warm. Cold: the first round of
          each, files and store dropped from the page cache where the system lets us.
          2. images/s of the ways to crop, by batch size, sizes and threads, with their difference
          from Pillow in levels of 255.
Limit     at least 10 times the loader, on two cores. Exit code 1 if it is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from masktas.data.augment import crop, random_boxes, random_colors
from masktas.data.decode.image import decode
from masktas.data.resample import dense, interpolated, native

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
TABLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet1000" / "sample.parquet"
SCALE = (0.2, 1.0)
Boxes = NDArray[np.int64]


# --- against the loader --------------------------------------------------------------------------


def write_files(table: Path, folder: Path) -> None:
    for number, row in enumerate(parquet.read_table(table, columns=["image"])["image"].to_pylist()):
        path = folder / f"{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(row["bytes"])


def write_store(folder: Path, store: Path, side: int) -> float:
    """Decode once; return the seconds it took in one process."""
    paths = sorted(folder.rglob("*.jpg"))
    pixels = np.lib.format.open_memmap(store, "w+", np.uint8, (len(paths), side, side, 3))
    began = time.perf_counter()
    for row, path in enumerate(paths):
        pixels[row] = decode(path.read_bytes(), size=(side, side), in_channels=3)
    pixels.flush()
    return time.perf_counter() - began


def drop_cached(paths: Iterable[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def loader(
    folder: Path, size: int, workers: int, batch: int
) -> Callable[[], Iterator[torch.Tensor]]:
    steps = transforms.Compose([
        transforms.RandomResizedCrop(size, scale=SCALE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])  # fmt: skip
    images = datasets.ImageFolder(str(folder), steps)
    batches = DataLoader(images, batch, shuffle=True, num_workers=workers)
    return lambda: (pixels for pixels, _ in batches)


def stored(
    store: Path, size: int, batch: int, strength: float = 0
) -> Callable[[], Iterator[torch.Tensor]]:
    pixels = np.load(store, mmap_mode="r")

    def batches() -> Iterator[torch.Tensor]:
        rng = np.random.default_rng()
        order = rng.permutation(len(pixels))
        for start in range(0, len(order), batch):
            numbers = order[start : start + batch]
            boxes = random_boxes(rng, len(numbers), pixels.shape[1:3], SCALE)
            flips = rng.uniform(size=len(numbers)) < 0.5
            colors = random_colors(rng, len(numbers), strength) if strength else None
            yield crop(
                pixels[numbers], boxes, flips, (size, size), colors=colors, mean=MEAN, std=STD
            )

    return batches


def images_a_second(batches: Callable[[], Iterator[torch.Tensor]]) -> float:
    began, count = time.perf_counter(), 0
    for batch in batches():
        count += len(batch)
    return count / (time.perf_counter() - began)


def compare(table: Path, side: int, size: int, rounds: int, batch: int) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name, "files"), Path(name, "images.npy")
        folder.mkdir()
        write_files(table, folder)
        seconds = write_store(folder, store, side)
        files = [*folder.rglob("*.jpg"), store]
        ways = {f"ImageFolder, {n} workers": loader(folder, size, n, batch) for n in (0, 1, 2, 4)}
        ways["stored"] = stored(store, size, batch)
        ways["stored, with colours"] = stored(store, size, batch, 0.4)
        found: dict[str, list[float]] = defaultdict(list)
        cold = {}
        for way, batches in ways.items():
            drop_cached(files)
            cold[way] = images_a_second(batches)
        for _ in range(rounds):
            for way, batches in ways.items():
                found[way].append(images_a_second(batches))
    warm = {way: statistics.median(rates) for way, rates in found.items()}
    best = max(rate for way, rate in warm.items() if way.startswith("ImageFolder"))
    print(f"{len(files) - 1} JPEGs, stored at {side} in {seconds:.1f} s by one process")
    print(f"batches of {batch} at {size}, {torch.get_num_threads()} threads")
    print("| way | cold images/s | warm images/s | least to most | of the best loader |")
    print("| --- | --- | --- | --- | --- |")
    for way, rate in warm.items():
        spread = f"{min(found[way]):.0f} to {max(found[way]):.0f}"
        print(f"| {way} | {cold[way]:.0f} | {rate:.0f} | {spread} | {rate / best:.1f} |")
    return warm["stored"] >= 10 * best


# --- ways to crop --------------------------------------------------------------------------------


def in_bytes(images: torch.Tensor, boxes: Boxes, size: tuple[int, int]) -> torch.Tensor:
    """Torch's own path for bytes, which rounds between rows and columns."""
    out = torch.empty(len(images), 3, *size)
    for image, (top, left, height, width), place in zip(images, boxes.tolist(), out, strict=True):
        pixels = image[top : top + height, left : left + width].permute(2, 0, 1)[None]
        place.copy_(
            torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
        )
    return out


def in_pillow(images: torch.Tensor, boxes: Boxes, size: tuple[int, int]) -> torch.Tensor:
    def one(number: int) -> torch.Tensor:
        top, left, height, width = boxes[number].tolist()
        image = Image.fromarray(images[number, top : top + height, left : left + width].numpy())
        cut = image.resize(size[::-1], Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(cut)).permute(2, 0, 1)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.stack(list(pool.map(one, range(len(images))))).float()


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Ways = dict[str, Callable[[], torch.Tensor]]


def ways_to_crop(images: torch.Tensor, boxes: Boxes, size: tuple[int, int]) -> Ways:
    none = np.zeros(len(images), bool)
    found: Ways = {
        "torch float32, one by one": lambda: interpolated(images, boxes, none, size),
        "torch bytes, one by one": lambda: in_bytes(images, boxes, size),
        "Pillow in threads": lambda: in_pillow(images, boxes, size),
        "matrix products": lambda: dense(images, torch.from_numpy(boxes), None, size),
    }
    if native() is not None:
        found["C"] = lambda: crop(images, boxes, None, size)
        found["C, normalised"] = lambda: crop(images, boxes, None, size, mean=MEAN, std=STD)
    return found


def smooth_images(rng: np.random.Generator, batch: int, side: int) -> torch.Tensor:
    coarse = torch.from_numpy(rng.integers(0, 256, (batch, 3, side // 4, side // 4)))
    smooth = torch.nn.functional.interpolate(coarse.float(), (side, side), mode="bilinear")
    return smooth.byte().permute(0, 2, 3, 1).contiguous()


def measure_ways(side: int, size: int, batch: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    images = smooth_images(rng, batch, side)
    boxes = random_boxes(rng, batch, (side, side), SCALE)
    kinds = ways_to_crop(images, boxes, (size, size))
    expected = in_pillow(images, boxes, (size, size))
    for number in (1, 2):
        rates: dict[str, list[float]] = defaultdict(list)
        with threads(number):
            for _ in range(rounds):
                for kind, way in kinds.items():
                    began = time.perf_counter()
                    way()
                    rates[kind].append(batch / (time.perf_counter() - began))
        for kind, way in kinds.items():
            off = (way() - expected).abs()
            told = " | " if "normalised" in kind else f"{off.mean():.2f} | {off.max():.2f}"
            rate = statistics.median(rates[kind])
            print(f"| {kind} | {side} | {size} | {batch} | {number} | {rate:.0f} | {told} |")


def ways(rounds: int) -> None:
    print("| way | stored | size | batch | threads | images/s | mean difference | most |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for side, size, batch in ((256, 224, 64), (256, 224, 256), (32, 32, 256), (36, 32, 256)):
        measure_ways(side, size, batch, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    native()  # compiled once, not part of any rate
    enough = compare(options.table, options.side, options.size, options.rounds, options.batch)
    ways(options.rounds)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
