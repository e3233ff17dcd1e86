"""Stores of decoded images, opened with small settings, and what is in them."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from masktas.data.splits import SPLITS
from masktas.data.store.build import Cache, StoreSpec
from masktas.data.store.image_store import ImageStore, SplitAccess, open_store

SHARES = {"search_share": 0.2, "validation_share": 0.2, "test_share": 0.2}


class RecordedBar:
    """A progress bar that records its calls."""

    def __init__(self) -> None:
        self.began: list[tuple[str, int | None]] = []
        self.updates: list[int] = []

    @contextmanager
    def bar(self, label, total):
        self.began.append((label, total))
        yield self

    def update(self, completed, text=""):
        self.updates.append(completed)


def opened(
    source, folder, *, warn=None, shown=None, allowed=SPLITS, given=None, shares=SHARES, **changes
):
    """Open a store; `changes` are arguments of StoreSpec or Cache."""
    spec = {"image_size": (8, 8), "in_channels": 3}
    cache = {"num_decoders": 1}
    for name, value in changes.items():
        (cache if name in ("num_bytes", "strict", "num_decoders") else spec)[name] = value
    return open_store(
        source,
        StoreSpec(**spec),
        Cache(folder, **cache),
        SplitAccess(shares, allowed, given or {}),
        bar=(shown or RecordedBar()).bar,
        warn=warn or (lambda text: pytest.fail(f"an unexpected warning: {text}")),
    )


def content(store: ImageStore) -> dict[str, bytes]:
    """Everything a store holds, by file."""
    assert store.statistics
    files = sorted(path for path in store.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(store.folder)): path.read_bytes() for path in files}


def positions(images) -> np.ndarray:
    """Where in the source images are, whose shards are of 256."""
    return images.places[:, 0] * 256 + images.places[:, 1]


def numbers(images) -> np.ndarray:
    """The numbers that `numbered` images tell, after checking that each is of one colour."""
    pixels = images.read(np.arange(len(images))).astype(int)
    assert (pixels == pixels[:, :1, :1]).all()
    return pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]
