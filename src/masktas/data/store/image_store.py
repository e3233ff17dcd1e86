"""The decode-once cache: every image as bytes at one size, memory-mapped, with its split.

A store is a folder: `parts/` (see `masktas.data.store.parts`),
`digests.npy` `[n, 16]`, `places.npy`
`[n, 2]` (shard of the source and number in it), `declared.npy` `[n]` (test images of the source)
and `store.json`, which is written last. It is named by what it was made from, so another source or
size makes another one. How its images are divided is said whenever it is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from masktas.artifacts import read_json, write_json
from masktas.data.decode.pool import DecodePool, Pixels
from masktas.data.sources import Source
from masktas.data.splits import SPLITS, describe_splits, split_by_content
from masktas.data.store.build import Cache, ShowBar, StoreSpec, build
from masktas.data.store.parts import Parts, Refused
from masktas.errors import ArtifactError, DataError
from masktas.formats import parse_size

VERSION = 2
MEASURED = 4096  # images that mean and standard deviation are measured on
CHUNKS = 16  # that they are read in
LISTED = 100  # skipped images in a manifest; all are in store.json


class Pool(Protocol):
    """Stored images by row.

    Attributes:
        shape: `[H, W, C]` of each.
        places: `[n, 2]`, in which shard of the source each is, and which number in it.
    """

    shape: tuple[int, int, int]
    places: NDArray[np.int64]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]`."""
        ...

    def is_slow(self, rows: NDArray[np.int64]) -> bool:
        """Say whether reading them takes more than copying."""
        ...


class InMemory:
    """`Pool` of images in memory, `pixels [n, H, W, C]`."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.shape = pixels.shape[1], pixels.shape[2], pixels.shape[3]
        self.places = np.stack([np.zeros(len(pixels), int), np.arange(len(pixels))], axis=1)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]`."""
        return self.pixels[rows]

    def is_slow(self, _: NDArray[np.int64]) -> bool:
        """Say no."""
        return False


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one split, or of several together.

    Attributes:
        pool: they are in it.
        rows: `[n]`, which of it they are.
        split: its name.
    """

    pool: Pool
    rows: NDArray[np.int64]
    split: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def places(self) -> NDArray[np.int64]:
        """Shard of the source and number in it of each image, `[n, 2]`, for labels."""
        return self.pool.places[self.rows]

    @property
    def is_slow(self) -> bool:
        """Whether some of them are decoded whenever they are read."""
        return self.pool.is_slow(self.rows)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]` by their number within the split."""
        return self.pool.read(self.rows[indices])


@dataclass(frozen=True, slots=True)
class SplitAccess:
    """How a store is looked at.

    Attributes:
        shares: of the splits, see `split_by_content`.
        allowed: the splits that may be read.
        given: `mean` and `std` that are not to be measured.
    """

    shares: dict[str, float]
    allowed: tuple[str, ...]
    given: dict[str, list[float]] = field(default_factory=dict)


class ImageStore:
    """An opened store, which hands out the splits that it was opened for and no other.

    Args:
        folder: of the store.
        source: decodes what is not cached.
        view: how it is looked at.
    """

    def __init__(self, folder: Path, source: Source, view: SplitAccess) -> None:
        self.folder, self.view, self._source = folder, view, source
        self.info: dict[str, Any] = read_json(folder / "store.json")
        self.shape = (*self.info["stored"], self.info["in_channels"])
        self.places = np.load(folder / "places.npy")
        self._digests = np.load(folder / "digests.npy", mmap_mode="r")
        self._declared = np.load(folder / "declared.npy")
        self._splits = split_by_content(self._digests, self._declared, **view.shares)
        self._parts = Parts(folder / "parts", source.num_shards)
        self._maps: dict[int, NDArray[np.uint8]] = {}
        self._cached = np.array(self.info["cached"], dtype=np.int64)  # of each part
        starts = np.searchsorted(self.places[:, 0], np.arange(source.num_shards))
        self._in_part = np.arange(len(self.places)) - starts[self.places[:, 0]]
        for number in np.flatnonzero(self._cached).tolist():
            there = self._parts.pixels(number).stat().st_size
            if there != self._cached[number] * math.prod(self.shape):
                raise ValueError(f"part {number} has {there} bytes")

    @cached_property
    def splits(self) -> dict[str, dict[str, Any]]:
        """How many images each split has, and a digest of all of their contents."""
        return describe_splits(self._splits, self._digests)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of what networks see."""
        return parse_size(self.info["size"])

    @cached_property
    def statistics(self) -> dict[str, list[float]]:
        """`mean` and `std` of each channel, in [0, 1]: given, or those of the search split."""
        if len(self.view.given) == 2:
            return self.view.given
        path = self.folder / f"statistics-{self.splits['search']['digest']}.json"
        if not path.exists():
            rows = np.flatnonzero(self._splits == SPLITS.index("search"))
            if len(rows) > MEASURED:
                rows = rows[np.linspace(0, len(rows) - 1, num=MEASURED, dtype=np.int64)]
            write_json(path, measure(self.read(some) for some in np.array_split(rows, CHUNKS)))
        measured: dict[str, list[float]] = read_json(path)
        return measured | self.view.given

    @property
    def mean(self) -> list[float]:
        """Mean of each channel."""
        return self.statistics["mean"]

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel."""
        return self.statistics["std"]

    def images(self, *splits: str) -> Images:
        """Return the images of a split, or of several together.

        Raises:
            PermissionError: if the store was not opened for it. A stage that has no business
                with the test split cannot read it by mistake.
        """
        for split in splits:
            if split not in self.view.allowed:
                raise PermissionError(f"this stage may read {self.view.allowed}, not {split!r}")
        rows = np.flatnonzero(np.isin(self._splits, [SPLITS.index(split) for split in splits]))
        return Images(self, rows, "+".join(splits))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]`; what is not cached is decoded."""
        images = np.empty((len(rows), *self.shape), dtype=np.uint8)
        numbers, places = self.places[rows, 0], self._in_part[rows]
        cached = places < self._cached[numbers]
        for to in np.flatnonzero(cached):
            images[to] = self._map(int(numbers[to]))[places[to]]
        if not cached.all():
            self._decode(rows, np.flatnonzero(~cached), images)
        return images

    def is_slow(self, rows: NDArray[np.int64]) -> bool:
        """Say whether any of them has to be decoded."""
        return bool((self._in_part[rows] >= self._cached[self.places[rows, 0]]).any())

    def summary(self) -> dict[str, Any]:
        """Return what a manifest says of the data."""
        keys = ("source", "size", "in_channels", "tried", "duplicates")
        skipped = self.info["skipped"]
        return {
            **{key: self.info[key] for key in keys},
            "splits": self.splits,
            **self.statistics,
            "num_skipped": len(skipped),
            "skipped": skipped[:LISTED],
        }

    def _map(self, number: int) -> NDArray[np.uint8]:
        if number not in self._maps:
            shape = (int(self._cached[number]), *self.shape)
            path = self._parts.pixels(number)
            self._maps[number] = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
        return self._maps[number]

    @cached_property
    def _decoders(self) -> DecodePool:
        return DecodePool()

    def _decode(
        self, rows: NDArray[np.int64], to: NDArray[np.intp], images: NDArray[np.uint8]
    ) -> None:
        """Decode images of those rows to their places in the result."""
        items = (self._source.read(*map(int, self.places[row])) for row in rows[to])
        height, width, channels = self.shape
        pixels = Pixels((height, width), channels, self.info["white"])
        for place, (item, decoded) in zip(to, self._decoders.each(items, pixels), strict=True):
            if decoded.pixels is None:
                raise DataError(f"{item.name}: {decoded.problem}, though it was decoded before.")
            if bytes.fromhex(decoded.digest) != self._digests[rows[place]].tobytes():
                raise DataError(f"{item.name}: has changed since the run looked at it.")
            images[place] = decoded.pixels


def open_store(
    source: Source,
    wish: StoreSpec,
    cache: Cache,
    view: SplitAccess,
    *,
    bar: ShowBar,
    warn: Callable[[str], None],
) -> ImageStore:
    """Open the store of a source, building it first where it is not there.

    Processes that ask for the same store at the same time build it together.

    Args:
        source: the images.
        wish: what is wanted of it.
        cache: where the store is, or goes.
        view: how it is looked at.
        bar: shows progress, given a label and how many images there are, if that is known.
        warn: is told about images that were skipped.

    Raises:
        DataError: if no image could be decoded, or a split is empty.
    """
    sizes = source.sizes()
    if sizes is not None and wish.limit is not None and wish.limit >= sum(sizes):
        wish = replace(wish, limit=None)
    content = {"version": VERSION, **asdict(wish), "fingerprint": source.fingerprint()}
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    folder = cache.folder / key
    store = _opened(folder, source, view, warn)
    if store is None:
        try:
            build(source, wish, cache, folder, bar)
        except OSError as error:
            raise DataError(
                f"{cache.folder}: images cannot be cached ({error.strerror}). Make room, bound the "
                "cache with --cache-size, or do without it: --no-cache."
            ) from None
        store = ImageStore(folder, source, view)
    _require_all_splits(store, source.location)
    skipped = store.info["skipped"]
    if skipped and cache.strict:
        raise Refused(skipped[0]["name"], skipped[0]["reason"])
    if skipped:
        warn(
            f"{len(skipped)} of {store.info['tried']} images could not be read and were skipped: "
            f"{skipped[0]['name']} ({skipped[0]['reason']}){', ...' if len(skipped) > 1 else ''}. "
            f"All are listed in {folder / 'store.json'}."
        )
    return store


def _opened(
    target: Path, source: Source, view: SplitAccess, warn: Callable[[str], None]
) -> ImageStore | None:
    """Return the store if it is there and whole; drop a damaged one."""
    if not (target / "store.json").exists():
        return None
    try:
        store = ImageStore(target, source, view)
        store.summary()
    except (OSError, ValueError, EOFError, KeyError, TypeError, IndexError, ArtifactError):
        warn(f"{target} is damaged: the images are decoded again.")
        shutil.rmtree(target, ignore_errors=True)
        return None
    return store


def _require_all_splits(store: ImageStore, location: str) -> None:
    for name, split in store.splits.items():
        if not split["images"]:
            raise DataError(
                f"{location}: of {len(store.places)} images none falls into the {name} split. Give "
                f"more images{'' if name == 'supernet' else f', or a larger --{name}-share'}."
            )


def measure(images: Iterable[NDArray[np.uint8]]) -> dict[str, list[float]]:
    """Return `mean` and `std` of each channel of images `[B, H, W, C]`, in [0, 1].

    Counted by value, so it is exact and takes no floats of all the images.
    """
    counts: NDArray[np.int64] = np.zeros((0, 256), dtype=np.int64)
    for part in images:
        channels = range(part.shape[3])
        new = [np.bincount(part[..., c].reshape(-1), minlength=256) for c in channels]
        counts = np.array(new) if not len(counts) else counts + np.array(new)
    levels = np.arange(256)
    mean = counts @ levels / counts.sum(1) / 255
    std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(1) / 255**2 - mean**2, 0))
    return {"mean": mean.tolist(), "std": np.maximum(std, 1e-3).tolist()}
