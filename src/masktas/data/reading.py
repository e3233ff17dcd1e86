"""Read all images of a source once, in order, without a store: to predict, embed or evaluate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.data.decode.pool import Decoded, DecodePool, DecodeSpec, DecodeWorker
from masktas.data.sources import Item, PythonSource, Source, open_image, open_source
from masktas.data.sources.patterns import expand_braces, is_glob, kind_of
from masktas.data.sources.tables import Columns
from masktas.errors import DataError
from masktas.formats import shown

MAX_NAMED = 5  # unreadable images that a warning names


@dataclass(frozen=True, slots=True)
class ReadImage:
    """One image of a source, decoded or with the reason why it could not be.

    Attributes:
        place: shard of the source, and index in the shard.
        item: its name, and whether it is a test image.
        decoded: pixels and digest, or a problem.
    """

    place: tuple[int, int]
    item: Item
    decoded: Decoded


def as_source(
    images: Any, *, root: str | None = None, image_column: str | None = None
) -> tuple[Source, list[str] | None]:
    """Open images as users have them.

    Args:
        images: a path or address of an image; a folder, list, archive or table, or another
            location that `open_source` opens; a Pillow image, an array `[H, W, C]` or
            `[B, H, W, C]`, a tensor `[C, H, W]`; a list of images or of their paths; a data set;
            or an opened source.
        root: folder of torchvision's data sets.
        image_column: column of images in tables.

    Returns:
        The source, and the names of its images if they are paths in a list.

    Raises:
        DataError: if there are no images.
    """
    if hasattr(images, "stream") and hasattr(images, "fingerprint"):
        return images, None
    if isinstance(images, str | os.PathLike):
        path = os.fspath(images)
        if kind_of(path) == "images" and is_one_file(path):
            return open_image(path), None
        return open_source(images, root=root, image_column=image_column), None
    if isinstance(images, list | tuple):
        names = [
            shown(os.fspath(one)) if isinstance(one, str | os.PathLike) else f"image {number}"
            for number, one in enumerate(images)
        ]
        return PythonSource(list(images), Columns(image_column, None)), names
    if is_single(images):
        return PythonSource([images], Columns(None, None)), None
    if isinstance(images, np.ndarray):
        return PythonSource(list(images), Columns(None, None)), None
    return open_source(images, image_column=image_column), None


def is_one_file(location: str) -> bool:
    """Return whether an image's path or address names one file, and no folder, glob or archive."""
    if "://" not in location or "::" in location:
        return os.path.isfile(location)
    return not is_glob(location) and expand_braces(location) == [location]


def is_single(images: Any) -> bool:
    """Return whether it is one image, as Python has it: Pillow's, encoded, an array or a tensor."""
    if isinstance(images, bytes | bytearray) or hasattr(images, "exif"):
        return True
    if type(images).__module__.partition(".")[0] == "PIL":
        return True
    return getattr(images, "ndim", None) in (2, 3)


def read_images(source: Source, spec: DecodeSpec) -> Iterator[ReadImage]:
    """Decode all images of a source as a store does, in order.

    A shard that ends early counts as one more image with a problem.
    """
    with DecodePool() as decoders:
        yield from _read(source, lambda items: decoders.each(items, spec))


def read_whole_images(source: Source, in_channels: int, white: float | None) -> Iterator[ReadImage]:
    """Decode all images of a source at their own size, in order, as `read_images` does.

    Args:
        source: the images.
        in_channels: of the decoded images.
        white: see `decode`.
    """
    with closing(DecodeWorker()) as decoder:
        yield from _read(source, lambda items: decode_whole(items, decoder, in_channels, white))


def decode_whole(
    items: Iterator[Item], decoder: DecodeWorker, in_channels: int, white: float | None
) -> Iterator[tuple[Item, Decoded]]:
    """Decode images at their own size, in order; see `read_whole_images`."""
    for item in items:
        size = decoder.dimensions([item])[0]
        # of no image: decoding says why
        spec = DecodeSpec((1, 1) if size is None else size, in_channels, white)
        yield item.without_content(), decoder.decode([item], spec)[0]


def _read(
    source: Source, decoded: Callable[[Iterator[Item]], Iterator[tuple[Item, Decoded]]]
) -> Iterator[ReadImage]:
    for shard in range(source.num_shards):
        index = -1
        try:
            for index, (item, found) in enumerate(decoded(source.stream(shard))):
                yield ReadImage((shard, index), item, found)
        except DataError as error:
            name = f"{source.location}, part {shard}"
            problem = Decoded(problem=str(error).rstrip("."))
            yield ReadImage((shard, index + 1), Item(name, None), problem)


def stacked(images: list[ReadImage]) -> NDArray[np.uint8]:
    """Return the pixels of decoded images as one array `[B, H, W, C]`."""
    return np.stack([one.decoded.pixels for one in images if one.decoded.pixels is not None])


def left_out(problems: Sequence[tuple[str, str]], num: int) -> str:
    """Say that some of `num` images could not be read, with (name, reason) of the first."""
    named = ", ".join(f"{name} ({reason})" for name, reason in problems[:MAX_NAMED])
    more = ", ..." if len(problems) > MAX_NAMED else ""
    return (
        f"{len(problems):,} of {num:,} images could not be read and were left out: {named}{more}."
    )


def nothing_read(source: Source, num: int, name: str, problem: str) -> DataError:
    """Return the error for images of which none could be read."""
    return DataError(
        f"{source.location}: none of {num} images could be read; the first, {name}: {problem}."
    )
