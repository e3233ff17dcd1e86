"""From a source to a store: decode all images, and write down what there is."""

from __future__ import annotations

import fcntl
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from masktas.artifacts import write_json
from masktas.data.decode.pool import DecodePool, Pixels
from masktas.data.sources import Item, Source
from masktas.data.store.parts import Building, Parts, Wanted
from masktas.errors import DataError
from masktas.formats import format_size

CROP_MARGIN = 8 / 7  # 256 over 224, as the field stores images it crops from
LOOKED_AT = 32  # images whose size is looked at


class Progress(Protocol):
    """What shows how far a loop is."""

    def update(self, completed: int, text: str = "") -> None:
        """Show how many are done."""
        ...


ShowBar = Callable[[str, int | None], AbstractContextManager[Progress]]


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """What is wanted of a source; together with its content it names the store.

    Attributes:
        image_size: (height, width) that networks see; where most images are larger, the store
            keeps a margin to cut crops from.
        in_channels: of the images.
        limit: this many images only, evenly spread where their number is known.
        white: see `Pixels`.
    """

    image_size: tuple[int, int]
    in_channels: int
    limit: int | None = None
    white: float | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """Where decoded images go, and how many.

    Attributes:
        folder: holds stores.
        num_bytes: of pixels, at most; images beyond are decoded anew whenever they are needed.
        strict: refuse a source with an image that cannot be decoded, instead of skipping it.
        num_decoders: processes that decode; as many as there are cores if None.
    """

    folder: Path
    num_bytes: float = math.inf
    strict: bool = False
    num_decoders: int | None = None

    def images(self, pixels: Pixels) -> float:
        """How many images it holds, at most."""
        return math.inf if math.isinf(self.num_bytes) else self.num_bytes // pixels.num_bytes


def build(source: Source, wish: StoreSpec, cache: Cache, folder: Path, bar: ShowBar) -> None:
    """Make what is missing of a store; whoever else is at it does a part of the work.

    Args:
        source: the images.
        wish: what is wanted of it.
        cache: how many images are kept as pixels.
        folder: of the store.
        bar: shows progress, given a label and how many images there are, if that is known.

    Raises:
        DataError: if no image could be decoded.
        OSError: if there is no room.
    """
    wanted = Wanted.of(source, wish.limit)
    parts = Parts(folder / "parts", source.num_shards)
    parts.folder.mkdir(parents=True, exist_ok=True)
    done = 0
    with DecodePool(cache.num_decoders) as decoders:
        size = _stored_size(source, wanted, wish, decoders)
        pixels = Pixels(size, wish.in_channels, wish.white)
        room = cache.images(pixels)
        _require_room(folder, wanted, room, pixels)
        with bar("decoding", wanted.total) as shown:

            def advance(more: int) -> None:
                nonlocal done
                done += more
                shown.update(done)

            Building(
                source=source,
                wanted=wanted,
                pixels=pixels,
                parts=parts,
                decoders=decoders,
                room=lambda number: room - _images_before(parts, number, wanted, pixels),
                strict=cache.strict,
                advance=advance,
            ).run()
    with _alone(folder):
        if not (folder / "store.json").exists():
            _conclude(source, wish, pixels, parts, folder)


def _stored_size(
    source: Source, wanted: Wanted, wish: StoreSpec, decoders: DecodePool
) -> tuple[int, int]:
    """Keep a margin for crops where most images (a look at some) have more pixels to give."""
    height, width = wish.image_size
    larger = math.ceil(height * CROP_MARGIN), math.ceil(width * CROP_MARGIN)
    sizes = [size for size in decoders.dimensions(_some(source, wanted)) if size is not None]
    with_margin = [size for size in sizes if size[0] >= larger[0] and size[1] >= larger[1]]
    return larger if 2 * len(with_margin) > len(sizes) else wish.image_size


def _some(source: Source, wanted: Wanted) -> list[Item]:
    """Return a few images from all over the source; the first ones where its end is not known."""
    shards = range(source.num_shards if wanted.total is not None else 1)
    few = Wanted.of(source, LOOKED_AT) if wanted.total is not None else wanted
    found: list[Item] = []
    for number in shards:
        with suppress(DataError):  # told where images are decoded
            found += itertools.islice(few.items(source, number), LOOKED_AT)
    return found


def _require_room(folder: Path, wanted: Wanted, room: float, pixels: Pixels) -> None:
    """Raise DataError unless the disk holds the pixels: a full one would stop a run half-way."""
    if wanted.total is None:
        return
    needed = min(wanted.total, room) * pixels.num_bytes
    there = sum(path.stat().st_size for path in (folder / "parts").glob("*.u8"))
    free = shutil.disk_usage(folder).free
    if free < needed - there:
        raise DataError(
            f"{folder.parent}: the decoded images need {needed / 1e9:.1f} GB, but the disk has "
            f"{free / 1e9:.1f} GB left. Make room, bound the cache with --cache-size, do without "
            "it (--no-cache), choose another --out, or use fewer images with --limit."
        )


def _images_before(parts: Parts, number: int, wanted: Wanted, pixels: Pixels) -> int:
    """Count the images whose pixels come before a part's in a bounded cache."""
    if wanted.sizes is not None:
        return sum(wanted.sizes[:number])
    others = (parts.pixels(other) for other in range(parts.num) if other != number)
    return sum(path.stat().st_size for path in others if path.exists()) // pixels.num_bytes


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _conclude(source: Source, wish: StoreSpec, pixels: Pixels, parts: Parts, folder: Path) -> None:
    """Write what is in the store."""
    made = [parts.load(number) for number in range(parts.num)]
    skipped = [problem for part in made for problem in part.skipped]
    tried = sum(part.tried for part in made)
    digests = np.concatenate([part.digests for part in made])
    if not len(digests):
        first = skipped[0] if skipped else {"name": "it", "reason": "empty"}
        raise DataError(
            f"{source.location}: none of {tried} images could be decoded; the first, "
            f"{first['name']}: {first['reason'].rstrip('.')}."
        )
    shard = np.repeat(np.arange(parts.num), [len(part.index) for part in made])
    np.save(folder / "digests.npy", digests)
    np.save(folder / "places.npy", np.stack([shard, np.concatenate([p.index for p in made])], 1))
    np.save(folder / "declared.npy", np.concatenate([part.is_test for part in made]))
    content = {
        "source": source.location,
        "size": format_size(wish.image_size),
        "stored": pixels.size,
        "in_channels": pixels.in_channels,
        "white": pixels.white,
        "cached": [part.cached for part in made],
        "tried": tried,
        "duplicates": int(len(digests) - len(np.unique(digests, axis=0))),
        "skipped": skipped,
    }
    write_json(folder / "store.json", content)
