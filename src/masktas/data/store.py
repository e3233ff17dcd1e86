"""The decode-once cache: every image as bytes at one size, memory-mapped, with its split.

A store is a folder: `images.npy` `[n, side, side, C]`, `digests.npy` `[n, 16]`, `positions.npy`
(where in the source each image is), `splits.npy` and `store.json`, which is written last. It is
named by what it was made from, so another source or size makes another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.artifacts import read_json, write_json
from masktas.data.decode import decode, dimensions
from masktas.data.sources import Source
from masktas.data.splits import SPLITS, split_by_content
from masktas.errors import ArtifactError, DataError

VERSION = 1
CROP_MARGIN = 8 / 7  # 256 over 224, as the field stores images it crops from
CHUNK = 512
Track = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one split, or of several together.

    Attributes:
        pixels: `[n, side, side, C]` bytes, memory-mapped.
        rows: which of them are of this split.
        positions: where in the source they are, for labels.
        split: its name.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    split: str

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, side, side, C]` by their number within the split."""
        return np.asarray(self.pixels[self.rows[indices]])


class ImageStore:
    """An opened store, which hands out the splits that it was opened for and no other."""

    def __init__(self, folder: Path, allowed: tuple[str, ...]) -> None:
        self.folder = folder
        self.allowed = allowed
        self.info: dict[str, Any] = read_json(folder / "store.json")
        self._pixels = np.load(folder / "images.npy", mmap_mode="r")
        self._splits = np.load(folder / "splits.npy")
        self._positions = np.load(folder / "positions.npy")

    @property
    def mean(self) -> list[float]:
        """Mean of each channel over the supernet split, in [0, 1]."""
        return list(self.info["mean"])

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel over the supernet split."""
        return list(self.info["std"])

    def images(self, *splits: str) -> Images:
        """Return the images of a split, or of several together.

        Raises:
            PermissionError: if the store was not opened for it. A stage that has no business
                with the test split cannot read it by mistake.
        """
        for split in splits:
            if split not in self.allowed:
                raise PermissionError(f"this stage may read {self.allowed}, not {split!r}")
        rows = np.flatnonzero(np.isin(self._splits, [SPLITS.index(split) for split in splits]))
        return Images(self._pixels, rows, self._positions[rows], "+".join(splits))

    def summary(self) -> dict[str, Any]:
        """Return what a manifest says of the data."""
        keys = ("source", "size", "in_channels", "splits", "mean", "std", "skipped", "duplicates")
        return {key: self.info[key] for key in keys}


def open_store(
    source: Source,
    location: str,
    folder: Path,
    *,
    image_size: int,
    in_channels: int,
    shares: dict[str, float],
    allowed: tuple[str, ...],
    track: Track,
    warn: Callable[[str], None],
    limit: int | None = None,
    repaired: bool = False,
) -> ImageStore:
    """Open the store of a source below `folder`, building it first where it is not there.

    Args:
        source: the images.
        location: where they came from, as the user wrote it.
        folder: holds stores.
        image_size: side that networks see; where most images are larger, the store keeps a margin.
        in_channels: 1 or 3.
        shares: arguments of `split_by_content`.
        allowed: the splits that may be read.
        track: wraps the loop over images to show progress.
        warn: is told once about images that were skipped.
        limit: use this many images only, evenly spread over the source.
        repaired: whether a damaged store has just been dropped; a second one is an error.

    Raises:
        DataError: if no image could be decoded, or a split is empty.
    """
    count = min(len(source), limit or len(source))
    settings = {
        "version": VERSION, "image_size": image_size, "in_channels": in_channels,
        "shares": shares, "count": count,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps([settings, source.fingerprint()]).encode()).hexdigest()[:16]
    target = folder / key
    if not (target / "store.json").exists():
        # Built beside its name and moved there whole: a kill leaves nothing that looks finished.
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                if not (target / "store.json").exists():
                    shutil.rmtree(target, ignore_errors=True)
                    name = tempfile.mkdtemp(prefix=f".{key}.", suffix=".tmp", dir=folder)
                    _build(source, location, Path(name), settings, track)
                    os.rename(name, target)
        except OSError as error:
            raise DataError(f"{folder}: images cannot be cached ({error.strerror}).") from None
    try:
        store = ImageStore(target, allowed)
        store.summary()
    except (OSError, ValueError, EOFError, KeyError, TypeError, ArtifactError):
        if repaired:
            raise
        warn(f"{target} is damaged: the images are decoded again.")
        shutil.rmtree(target, ignore_errors=True)
        return open_store(
            source, location, folder, image_size=image_size, in_channels=in_channels,
            shares=shares, allowed=allowed, track=track, warn=warn, limit=limit, repaired=True,
        )  # fmt: skip
    skipped = store.info["skipped"]
    if skipped:
        first = skipped[0]
        warn(
            f"{len(skipped)} of {count} images could not be read and were skipped: "
            f"{first['name']} ({first['reason']}){', ...' if len(skipped) > 1 else ''}. "
            f"All are listed in {target / 'store.json'}."
        )
    return store


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let runs that decode to one folder take turns; leave nothing half decoded behind.

    What a killed process left is removed too, since nobody else is at work here.
    """

    def sweep() -> None:
        for path in folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        sweep()
        try:
            yield
        finally:
            sweep()
    finally:
        os.close(descriptor)


def _build(
    source: Source, location: str, folder: Path, settings: dict[str, Any], track: Track
) -> None:
    count, in_channels = settings["count"], settings["in_channels"]
    wanted = np.linspace(0, len(source) - 1, num=count).round().astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        side = _side(source, wanted, settings["image_size"])
    _require_room(folder, count * side * side * in_channels)
    images: NDArray[np.uint8] = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, side, side, in_channels)
    )
    digests = np.zeros((count, 16), dtype=np.uint8)
    skipped: dict[int, str] = {}

    def one(index: int) -> None:
        try:
            content = source.read(int(wanted[index]))
            images[index] = decode(content, size=(side, side), in_channels=in_channels)
            digests[index] = np.frombuffer(hashlib.sha256(content).digest()[:16], dtype=np.uint8)
        except DataError as error:
            skipped[index] = str(error)

    chunks = range(0, count, CHUNK)
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        for start in track(chunks, len(chunks), "decoding"):
            list(pool.map(one, range(start, min(start + CHUNK, count))))
    problems = [
        {"name": source.name(int(wanted[index])), "reason": reason}
        for index, reason in sorted(skipped.items())
    ]
    if len(problems) == count:
        raise DataError(
            f"{location}: none of {count} images could be decoded; the first, "
            f"{problems[0]['name']}: {problems[0]['reason']}."
        )
    kept = np.array([index for index in range(count) if index not in skipped], dtype=np.int64)
    if skipped:
        images = _compact(folder, images, kept)
    digests, positions = digests[kept], wanted[kept]
    declared = np.array([source.is_test(int(position)) for position in positions])
    splits = split_by_content(digests, declared, **settings["shares"])
    np.save(folder / "digests.npy", digests)
    np.save(folder / "positions.npy", positions)
    np.save(folder / "splits.npy", splits)
    mean, std = _statistics(images, splits)
    write_json(
        folder / "store.json",
        {
            "source": location,
            "size": settings["image_size"],
            "in_channels": in_channels,
            "side": side,
            "shares": settings["shares"],
            "declared_test": bool(declared.any()),
            "splits": _describe(splits, digests, location),
            "duplicates": int(len(kept) - len(np.unique(digests, axis=0))),
            "mean": mean,
            "std": std,
            "skipped": problems,
        },
    )


def _require_room(folder: Path, wanted: int) -> None:
    """Raise DataError unless the disk holds that many bytes: a full one would kill the process."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise DataError(
            f"{folder.parent}: the decoded images need {wanted / 1e9:.1f} GB, but the disk has "
            f"{free / 1e9:.1f} GB left. Make room, choose another --out, or use fewer with --limit."
        )


def _side(source: Source, wanted: NDArray[np.int64], image_size: int) -> int:
    """Keep a margin for crops where the images (a look at up to 32) have more pixels to give."""
    larger, looked = 0, 0
    with_margin = math.ceil(image_size * CROP_MARGIN)
    for position in wanted[:: max(1, len(wanted) // 32)]:
        try:
            short = min(dimensions(source.read(int(position))))
        except DataError:
            continue
        looked += 1
        larger += short >= with_margin
    return with_margin if larger * 2 > looked else image_size


def _compact(folder: Path, images: NDArray[np.uint8], kept: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Rewrite the images without the skipped ones, so that row i is image i."""
    smaller = np.lib.format.open_memmap(
        folder / "kept.npy", mode="w+", dtype=np.uint8, shape=(len(kept), *images.shape[1:])
    )
    for start in range(0, len(kept), CHUNK):
        smaller[start : start + CHUNK] = images[kept[start : start + CHUNK]]
    smaller.flush()
    os.replace(folder / "kept.npy", folder / "images.npy")
    return smaller


def _statistics(
    images: NDArray[np.uint8], splits: NDArray[np.int8]
) -> tuple[list[float], list[float]]:
    """Measure mean and standard deviation per channel on up to 4,096 supernet images."""
    rows = np.flatnonzero(splits == SPLITS.index("supernet"))
    if len(rows) > 4096:
        rows = rows[np.linspace(0, len(rows) - 1, num=4096, dtype=np.int64)]
    if not len(rows):
        rows = np.arange(len(images))
    levels = np.arange(256)
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)  # exact, and no floats of all images
    for start in range(0, len(rows), CHUNK):
        pixels = images[rows[start : start + CHUNK]]
        for channel in range(images.shape[3]):
            counts[channel] += np.bincount(pixels[..., channel].reshape(-1), minlength=256)
    mean = counts @ levels / counts.sum(1) / 255
    std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(1) / 255**2 - mean**2, 0))
    return mean.tolist(), np.maximum(std, 1e-3).tolist()


def _describe(
    splits: NDArray[np.int8], digests: NDArray[np.uint8], location: str
) -> dict[str, dict[str, Any]]:
    described = {}
    for number, name in enumerate(SPLITS):
        mine = digests[splits == number]
        if not len(mine):
            raise DataError(
                f"{location}: of {len(splits)} images none falls into the {name} split. Give more "
                f"images{'' if name == 'supernet' else f', or a larger --{name}-share'}."
            )
        ordered = mine[np.lexsort(mine.T[::-1])]
        digest = hashlib.sha256(ordered.tobytes()).hexdigest()[:16]
        described[name] = {"images": len(mine), "digest": digest}
    return described
