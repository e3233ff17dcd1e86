"""Build a store: decode the images of a source and write what the store holds."""

from __future__ import annotations

import itertools
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masktas.console import Bar
from masktas.data.decode.pool import Decoded, DecodePool, DecodeSpec
from masktas.data.sources import Item, Source
from masktas.data.store.damage import locked, save_array
from masktas.data.store.parts import Part, Parts, PixelFile, Skipped
from masktas.errors import DataError, UndecodableImage
from masktas.files import write_json
from masktas.formats import format_size

CROP_MARGIN = 8 / 7  # 256 over 224, the usual margin for random crops
SAMPLE = 32  # images whose size is read to decide on the margin
SAMPLE_BYTES = 1 << 29  # of these images; no more are read beyond it
MAX_LISTED = 10_000  # skipped images of all parts in store.json; it also has their number
ALL = range(sys.maxsize)  # indices of a shard, all of them
ShowBar = Callable[[str, int | None], AbstractContextManager[Bar]]


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """Which images of a source a store holds, and how; with the source's fingerprint its name.

    Attributes:
        image_size: (height, width) of network inputs; if most images are larger, the store keeps
            a margin for random crops.
        in_channels: channels of each image.
        limit: number of images to use, evenly spread over the source; None: all.
        white: see `DecodeSpec`.
    """

    image_size: tuple[int, int]
    in_channels: int
    limit: int | None = None
    white: float | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """Location and size limit of stores.

    Attributes:
        folder: folder of all stores.
        num_bytes: maximum size of the pixels; images beyond it are decoded each time they are read.
        strict: refuse a source with an image that cannot be decoded, instead of skipping it.
        num_decoders: number of decoder processes; None: one per core.
    """

    folder: Path
    num_bytes: float = math.inf
    strict: bool = False
    num_decoders: int | None = None

    def max_images(self, spec: DecodeSpec) -> float:
        """Return how many images fit."""
        return math.inf if math.isinf(self.num_bytes) else self.num_bytes // spec.num_bytes


def build(source: Source, spec: StoreSpec, cache: Cache, folder: Path, bar: ShowBar) -> None:
    """Build a store, or what is missing of it, sharing the work with other processes.

    Args:
        source: the images.
        spec: what the store holds.
        cache: how many images are stored as pixels.
        folder: of the store.
        bar: opens a progress bar, given a label and the number of images, None if unknown.

    Raises:
        DataError: if no image could be decoded.
        OSError: if the disk is full.
    """
    indices, sizes = select(source, spec.limit)
    parts = Parts(folder / "parts", source.num_shards)
    parts.folder.mkdir(parents=True, exist_ok=True)
    completed = 0
    total = None if sizes is None else sum(sizes)
    with DecodePool(cache.num_decoders) as decoders, bar("decoding", total) as shown:
        sample = _sample(source, indices, sizes, lambda: shown.update(0))
        size = _stored_size(sample, spec.image_size, decoders)
        decode_spec = DecodeSpec(size, spec.in_channels, spec.white)
        max_images = cache.max_images(decode_spec)
        _require_space(folder, sizes, max_images, decode_spec)

        def advance(num_images: int) -> None:
            nonlocal completed
            completed += num_images
            shown.update(completed)

        def make(number: int, file: PixelFile) -> Part:
            items = _items(source, number, indices[number])
            return _write_part(
                file,
                decoders.each(items, decode_spec),
                indices[number],
                capacity=max_images - _images_before(parts, number, sizes, decode_spec),
                name=f"{source.location}, part {number}",
                strict=cache.strict,
                advance=advance,
            )

        parts.complete(make, advance)
    with locked(folder):
        if not (folder / "store.json").exists():
            _write_index(source, spec, decode_spec, parts, folder)


def select(source: Source, limit: int | None) -> tuple[list[Sequence[int]], list[int] | None]:
    """Select `limit` images, evenly spread over the source; over its shards if sizes are unknown.

    Returns:
        The indices of the selected images in each shard, and their number in each shard, None if
        sizes are unknown.
    """
    sizes = source.sizes()
    if sizes is None:
        first = ALL if limit is None else ALL[: -(-limit // source.num_shards)]
        return [first] * source.num_shards, None
    total = sum(sizes)
    if limit is None or limit >= total:
        return [ALL] * source.num_shards, sizes
    spread = np.linspace(0, total - 1, num=limit).round().astype(np.int64)
    ends = np.cumsum(sizes)
    chosen = np.split(spread, np.searchsorted(spread, ends[:-1]))
    indices: list[Sequence[int]] = [
        (numbers - end + size).tolist()
        for numbers, end, size in zip(chosen, ends, sizes, strict=True)
    ]
    return indices, [len(one) for one in indices]


def _items(source: Source, number: int, indices: Sequence[int]) -> Iterator[Item]:
    """Yield images of a shard by their indices; a range from 0 is streamed."""
    if isinstance(indices, range):
        return itertools.islice(source.stream(number), len(indices))
    return (source.read(number, index) for index in indices)


def _stored_size(
    sample: Iterator[Item], image_size: tuple[int, int], decoders: DecodePool
) -> tuple[int, int]:
    """Return the size of stored images: with a margin for crops if most of a sample is larger."""
    larger = math.ceil(image_size[0] * CROP_MARGIN), math.ceil(image_size[1] * CROP_MARGIN)
    sizes = [size for size in decoders.dimensions(sample) if size is not None]
    with_margin = [size for size in sizes if size[0] >= larger[0] and size[1] >= larger[1]]
    return larger if 2 * len(with_margin) > len(sizes) else image_size


def _sample(
    source: Source,
    indices: list[Sequence[int]],
    sizes: list[int] | None,
    show: Callable[[], None],
) -> Iterator[Item]:
    """Yield some images spread over the source; its first ones if sizes are unknown.

    `show` is called for each, because reading them may take long.
    """
    num_shards = 1
    if sizes is not None:
        num_shards = source.num_shards
        indices, _ = select(source, SAMPLE)
    num_bytes = 0
    for number in range(num_shards):
        with suppress(DataError):  # reported when the images are decoded
            for item in itertools.islice(_items(source, number, indices[number]), SAMPLE):
                num_bytes += item.num_bytes
                show()
                yield item
                del item  # freed before the next one is read
                if num_bytes > SAMPLE_BYTES:
                    return


def _require_space(
    folder: Path, sizes: list[int] | None, max_images: float, spec: DecodeSpec
) -> None:
    """Raise DataError if the disk is too small for the pixels, before anything is decoded."""
    if sizes is None:
        return
    needed = min(sum(sizes), max_images) * spec.num_bytes
    present = sum(path.stat().st_size for path in (folder / "parts").glob("*.u8"))
    free = shutil.disk_usage(folder).free
    if free < needed - present:
        raise DataError(
            f"{folder.parent}: the decoded images need {needed / 1e9:.1f} GB, but the disk has "
            f"{free / 1e9:.1f} GB left. Free some space, limit the cache with --cache-size, "
            "disable it with --no-cache, choose another --out, or use fewer images with --limit."
        )


def _images_before(parts: Parts, number: int, sizes: list[int] | None, spec: DecodeSpec) -> int:
    """Count the images whose pixels take precedence over a part's in a cache of limited size."""
    if sizes is not None:
        return sum(sizes[:number])
    others = (parts.pixels(other) for other in range(parts.num) if other != number)
    return sum(path.stat().st_size for path in others if path.exists()) // spec.num_bytes


def _write_part(
    file: PixelFile,
    decoded: Iterator[tuple[Item, Decoded]],
    indices: Sequence[int],
    *,
    capacity: float,
    name: str,
    strict: bool,
    advance: Callable[[int], None],
) -> Part:
    """Write the pixels of a part and return its record.

    Args:
        file: for the pixels.
        decoded: the images in order; if the shard ends early, those before count.
        indices: indices of these images in the shard.
        capacity: number of images whose pixels are written, at most.
        name: of the part, for messages.
        strict: raise UndecodableImage instead of skipping.
        advance: called after each image.
    """
    capacity = max(0, capacity)
    index: list[int] = []
    digests, is_test = bytearray(), []
    skipped = Skipped()
    tried = 0

    def skip(name: str, reason: str) -> None:
        if strict:
            raise UndecodableImage(name, reason)
        skipped.add(name, reason)

    try:
        for item, image in decoded:
            if image.pixels is None:
                skip(item.name, image.problem)
            else:
                if len(index) < capacity:
                    file.append(image.pixels)
                index.append(indices[tried])
                digests += bytes.fromhex(image.digest)
                is_test.append(item.is_test)
            tried += 1
            advance(1)
    except UndecodableImage:
        raise
    except DataError as error:
        skip(name, str(error))
    return Part(
        np.array(index, dtype=np.int64),
        np.frombuffer(bytes(digests), dtype=np.uint8).reshape(len(index), 16),
        np.array(is_test, dtype=bool),
        int(min(len(index), capacity)),
        tried,
        skipped.listed,
        skipped.num,
        file.checksums,
    )


def _write_index(
    source: Source, spec: StoreSpec, decode_spec: DecodeSpec, parts: Parts, folder: Path
) -> None:
    """Write the files that describe all parts, `store.json` last."""
    made = [parts.load(number) for number in range(parts.num)]
    skipped = [problem for part in made for problem in part.skipped][:MAX_LISTED]
    num_skipped = sum(part.num_skipped for part in made)
    tried = sum(part.tried for part in made)
    digests = np.concatenate([part.digests for part in made])
    if not len(digests):
        first = skipped[0] if skipped else {"name": "it", "reason": "empty"}
        raise DataError(
            f"{source.location}: none of {tried} images could be decoded; the first, "
            f"{first['name']}: {first['reason'].rstrip('.')}."
        )
    shard = np.repeat(np.arange(parts.num), [len(part.index) for part in made])
    arrays = {
        "digests": digests,
        "places": np.stack([shard, np.concatenate([part.index for part in made])], 1),
        "declared": np.concatenate([part.is_test for part in made]),
        "checksums": np.concatenate([_of_each(part) for part in made]),
    }
    content = {
        "source": source.location,
        "size": format_size(spec.image_size),
        "stored": decode_spec.size,
        "in_channels": decode_spec.in_channels,
        "white": decode_spec.white,
        "cached": [part.cached for part in made],
        "tried": tried,
        "duplicates": int(len(digests) - len(np.unique(digests, axis=0))),
        "skipped": skipped,
        "checksums": {
            name: save_array(folder / f"{name}.npy", array) for name, array in arrays.items()
        },
    }
    if num_skipped > len(skipped):
        content["num_skipped"] = num_skipped
    write_json(folder / "store.json", content)


def _of_each(part: Part) -> NDArray[np.uint32]:
    """Return the checksum of each image of a part, `[n]`; 0 for those that are not cached."""
    checksums = np.zeros(len(part.index), dtype=np.uint32)
    checksums[: part.cached] = part.checksums
    return checksums
