"""P6: batches of photos beside torchvision's loader, and beside only copying the stored bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crops import images_a_second, loader, write_files
from images import SPLITS, batches, opened

from masktas.data.store.image_store import ImageStore
from peers.turns import OURS, quartiles

SIZE, BATCH = 224, 128
COPY = "stored bytes copied, nothing else"
Epoch = Callable[[], Iterator[torch.Tensor]]


def measure(table: Path, workers: list[int], rounds: int) -> dict[str, Any]:
    """Compare epochs in turns: read, crop, mirror, normalise; caches are warm.

    Args:
        table: a parquet file with photos as JPEG.
        workers: of torchvision's loader, each a contender.
        rounds: epochs of each contender.
    """
    with tempfile.TemporaryDirectory() as name:
        files = Path(name, "files")
        files.mkdir()
        write_files(table, files)
        store = opened(files, Path(name, "cache"), SIZE)
        ways = {OURS: batches(store, SIZE, BATCH)}
        ways |= {f"torchvision, {n} workers": loader(files, SIZE, n, BATCH) for n in workers}
        ways[COPY] = copying(store)
        found = epochs_in_turns(ways, rounds)
        shape = store.shape
    rows = [
        {
            "name": way,
            "precision": "",
            "turns": rounds,
            "seconds": quartiles([1 / rate for rate in rates]),
            "images_per_second": quartiles(rates)[1],
            "share_of_peak": None,
            "ratio": quartiles([own / one for own, one in zip(found[OURS], rates, strict=True)]),
        }
        for way, rates in found.items()
    ]
    return {
        "what": f"batches of {BATCH} photos at {SIZE}, stored as {'x'.join(map(str, shape))}; "
        "seconds are those of an image",
        "images": 1,
        "outputs_apart": None,
        "rows": [row | {"ratio_to_default": row["ratio"]} for row in rows],
    }


def copying(store: ImageStore) -> Epoch:
    """Return an epoch that only copies the stored bytes of every batch, in random order."""
    images = store.images(*SPLITS)

    def epoch() -> Iterator[torch.Tensor]:
        order = np.random.default_rng(0).permutation(len(images))
        for start in range(0, len(order), BATCH):
            yield torch.from_numpy(images.read(order[start : start + BATCH]))

    return epoch


def epochs_in_turns(ways: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Return the images/s of every epoch, of all ways; one epoch of each warms up."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(rounds + 1):
        for way, epoch in ways.items():
            rate = images_a_second(epoch)
            if round_:
                found[way].append(rate)
    return found
