"""Every kind of source against torchvision's ImageFolder with a DataLoader, on the same photos.

Command   python benchmarks/images.py [--table images.parquet] [--size 224] [--rounds 5]
Shows     1. images/s of whole training batches (read, crop, flip, normalise): the loader with 0, 1,
          2 and 4 workers; and masktas from its cache, and without one. Medians of rounds that take
          turns. Cold: the first epoch, files dropped from the page cache; for masktas it begins
          with decoding.
          2. for every kind of source: seconds to build the cache, images/s of that, and after how
          many epochs the cache has cost less time than the loader.
Limit     warm at least 10 times the loader at its best, repaid within 2 epochs. Exit code 1 else.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import torch
from crops import MEAN, SCALE, STD, TABLE, drop_cached, images_a_second, loader, write_files
from PIL import Image

from masktas.data.batches import Augment, Batches
from masktas.data.sources import open_source
from masktas.data.store.build import Cache, StoreSpec
from masktas.data.store.image_store import ImageStore, SplitAccess, open_store

SHARES = {"search_share": 0.01, "validation_share": 0.01, "test_share": 0.01}
SPLITS = ("supernet", "search", "validation", "test")


class Photos(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    """As a user writes it."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.files[index]).convert("RGB"), index % 10


class Quiet:
    def update(self, completed: int, text: str = "") -> None:
        pass


def kinds(folder: Path, table: Path, files: list[Path]) -> dict[str, Any]:
    """Write the photos in every way; return what a user writes for each."""
    (folder / "list.txt").write_text("\n".join(f"{path}\t{path.parent.name}" for path in files))
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(folder / "files"))
    with tarfile.open(folder / "photos.tar", "w") as tar:
        tar.add(folder / "files", "photos")
    for number in range(4):
        with tarfile.open(folder / f"shard-{number}.tar", "w") as tar:
            for path in files[number::4]:
                tar.add(path, path.name)
                label = tarfile.TarInfo(f"{path.stem}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(path.parent.name.encode()))
    saved = datasets.load_dataset("parquet", data_files=str(table), split="train")
    saved.save_to_disk(str(folder / "saved"))
    for number, path in enumerate(files):
        split = "val" if number % 10 == 0 else "train"
        there = folder / "torchvision" / split / path.parent.name / path.name
        there.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, there)
    return {
        "folder": folder / "files",
        "list": folder / "list.txt",
        "pattern": f"{folder}/files/**/*.jpg",
        "zip": folder / "photos.zip",
        "tar": folder / "photos.tar",
        "WebDataset shards": f"{folder}/shard-{{0..3}}.tar",
        "parquet": table,
        "Hugging Face, on disk": folder / "saved",
        "torchvision's name": open_source("imagenet", root=str(folder / "torchvision")),
        "remote address": f"file://{folder}/files",
        "Python Dataset": Photos(files),
    }


def opened(data: Any, cache: Path, size: int, num_bytes: float = float("inf")) -> ImageStore:
    return open_store(
        data if hasattr(data, "num_shards") else open_source(data),
        StoreSpec((size, size), 3),
        Cache(cache, num_bytes),
        SplitAccess(SHARES, SPLITS, {"mean": MEAN.tolist(), "std": STD.tolist()}),
        bar=lambda label, total: nullcontext(Quiet()),
        warn=print,
    )


def batches(store: ImageStore, size: int, batch: int) -> Callable[[], Iterator[torch.Tensor]]:
    made = Batches(
        store.images(*SPLITS), image_size=(size, size), mean=store.mean, std=store.std,
        batch_size=batch, seed=0, device=torch.device("cpu"), augment=Augment(SCALE, True),
    )  # fmt: skip
    steps = iter(range(10**9))

    def epoch() -> Iterator[torch.Tensor]:
        for _ in range(made.steps_per_epoch):
            yield made.train(next(steps))[0]

    return epoch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    size, batch = given.size, given.batch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        write_files(given.table, folder / "files")
        files = sorted((folder / "files").rglob("*.jpg"))
        data = kinds(folder, given.table, files)
        ways = {
            f"ImageFolder, {n} workers": loader(folder / "files", size, n, batch)
            for n in (0, 1, 2, 4)
        }
        cold = {}
        for way, epoch in ways.items():
            drop_cached(files)
            cold[way] = images_a_second(epoch)
        drop_cached(files)
        began = time.perf_counter()
        store = opened(data["folder"], folder / "cache", size)
        ways["masktas"] = batches(store, size, batch)
        images_a_second(ways["masktas"])
        cold["masktas"] = len(files) / (time.perf_counter() - began)
        bare = opened(data["folder"], folder / "bare", size, 0)
        drop_cached(files)
        ways["masktas, --no-cache"] = batches(bare, size, batch)
        cold["masktas, --no-cache"] = images_a_second(ways["masktas, --no-cache"])
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(given.rounds):
            for way, epoch in ways.items():
                found[way].append(images_a_second(epoch))
        warm = {way: statistics.median(rates) for way, rates in found.items()}
        best = max(rate for way, rate in warm.items() if way.startswith("ImageFolder"))
        print(
            f"{len(files)} photos, batches of {batch} at {size}, {torch.get_num_threads()} threads"
        )
        print("| way | cold images/s | warm images/s | least to most | of the best loader |")
        print("| --- | --- | --- | --- | --- |")
        for way, rate in warm.items():
            spread = f"{min(found[way]):,.0f} to {max(found[way]):,.0f}"
            print(f"| {way} | {cold[way]:,.0f} | {rate:,.0f} | {spread} | {rate / best:.2f} |")
        print()
        print("| source | build the cache, s | images/s | warm images/s | repaid after epochs |")
        print("| --- | --- | --- | --- | --- |")
        latest = 0.0
        for kind, one in data.items():
            began = time.perf_counter()
            built = opened(one, folder / f"cache-{kind.replace(' ', '-')}", size)
            seconds = time.perf_counter() - began
            pace = statistics.median(
                images_a_second(batches(built, size, batch)) for _ in range(given.rounds)
            )
            count = len(built.images(*SPLITS))
            repaid = seconds / (count / best - count / pace)
            latest = max(latest, repaid)
            print(
                f"| {kind} | {seconds:.1f} | {count / seconds:,.0f} | {pace:,.0f} | {repaid:.1f} |"
            )
    return int(warm["masktas"] < 10 * best or latest > 2)


if __name__ == "__main__":
    sys.exit(main())
