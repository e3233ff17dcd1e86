"""TIFF files that Pillow cannot read in full: many channels, 16-bit color, planes, stacks.

tifffile trusts the header, so the memory it would allocate is checked first, and each compressed
strip or tile is decompressed up to its expected length to check it.
"""

from __future__ import annotations

import io
import math
import zlib
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from masktas.data.decode.pixels import MAX_BYTES, check_channels, check_size
from masktas.errors import DataError, require_extra

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PLAIN, DEFLATE = 1, (8, 32946)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
ORIENTATION = 274


class Page(NamedTuple):
    """Header of a TIFF.

    Attributes:
        height, width: as stored.
        orientation: EXIF orientation.
        pages: tifffile pages, each a channel if there are several; none if Pillow reads the file.
        alpha: whether the last channel is opacity.
    """

    height: int
    width: int
    orientation: int
    pages: tuple[Any, ...]
    alpha: bool


def _tifffile() -> ModuleType:
    return require_extra("tifffile", "data", "Reading a TIFF")


def read_header(content: bytes, in_channels: int) -> Page:
    """Read and check the header of a TIFF.

    Args:
        content: the file.
        in_channels: channels of the result. Unless it is 1, 3 or 4, this many gray pages are one
            image.

    Raises:
        DataError: if it is not a TIFF, or claims too many pixels or bytes.
    """
    with _tifffile().TiffFile(io.BytesIO(content)) as file:
        first: Any = file.pages[0]
        _check(first)
        tag = first.tags.get(ORIENTATION)
        orientation = int(tag.value) if tag is not None and isinstance(tag.value, int) else 1
        alpha = _has_alpha(first)
        pages = _stack(file, in_channels)
        if len(pages) == 1 and _is_for_pillow(first, in_channels, alpha=alpha):
            pages = ()
    return Page(first.imagelength, first.imagewidth, orientation, pages, alpha)


def is_grey(content: bytes) -> bool:
    """Return whether the first page of a TIFF has one channel, beside opacity.

    Raises:
        DataError: as `read_header`.
    """
    with _tifffile().TiffFile(io.BytesIO(content)) as file:
        first: Any = file.pages[0]
        _check(first)
        plain = first.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
        return plain and bool(first.samplesperpixel == 1 + _has_alpha(first))


def _has_alpha(page: Any) -> bool:
    return any(extra in (1, 2) for extra in page.extrasamples[-1:])


def read_pages(content: bytes, page: Page) -> NDArray[Any]:
    """Return the pixels `[H, W, C]` of the pages of a header.

    Raises:
        DataError: if the file is truncated, or its compression is not supported.
    """
    with _tifffile().TiffFile(io.BytesIO(content)) as file:
        if sum(one.nbytes for one in page.pages) > MAX_BYTES:
            raise DataError("claims too many bytes")
        channels: list[NDArray[Any]] = []
        for number, claimed in enumerate(page.pages):
            one: Any = file.pages[number]
            _check(one)
            if one.dtype is None:
                raise DataError(f"{claimed.bitspersample} bits a value are not read")
            _check_chunks(content, one)
            planes, _, height, width, samples = one.shaped
            whole = one.asarray(squeeze=False, maxworkers=1).reshape(planes, height, width, samples)
            channels.append(np.moveaxis(whole, 0, -1).reshape(height, width, planes * samples))
    pixels = np.concatenate(channels, axis=2) if len(channels) > 1 else channels[0]
    if page.pages[0].photometric == WHITE_IS_ZERO and pixels.dtype.kind == "u":
        pixels = np.invert(pixels)
    return pixels


NUMBERS = (
    "imagewidth", "imagelength", "imagedepth", "tilewidth", "tilelength", "tiledepth",
    "samplesperpixel", "bitspersample", "photometric", "compression", "planarconfig",
)  # fmt: skip


def _check(page: Any) -> None:
    for name in NUMBERS:  # a damaged tag may hold many values
        value = getattr(page, name, None)
        if value is not None and not (isinstance(value, int) and value >= 0):
            raise DataError(f"its {name} is no number")
    check_size(page.imagewidth, page.imagelength)
    if page.imagedepth != 1 or page.tiledepth > 1:
        raise DataError("a volume is not an image")
    pixels = page.imagewidth * page.imagelength
    if page.is_tiled:  # tifffile allocates whole tiles
        check_size(page.tilewidth, page.tilelength)
        pixels = max(pixels, page.tilewidth * page.tilelength)
    if not 0 < page.samplesperpixel * pixels * page.bitspersample <= 8 * MAX_BYTES:
        raise DataError("claims too many bytes")


def _stack(file: Any, in_channels: int) -> tuple[Any, ...]:
    """Return the pages of one image: `in_channels` gray pages, or the first page."""
    first = file.pages[0]
    if in_channels in (1, 3, 4) or first.samplesperpixel > 1:
        return (first,)
    pages = [first]
    for number in range(1, in_channels + 1):
        try:
            page: Any = file.pages[number]
        except IndexError:
            break
        _check(page)
        if page.shape != first.shape or page.dtype != first.dtype:
            return (first,)
        pages.append(page)
    if len(pages) == 1:
        return (first,)
    if len(pages) > in_channels:
        raise DataError(f"has more than {in_channels} pages")
    check_channels(len(pages), in_channels)
    return tuple(pages)


def _is_for_pillow(page: Any, in_channels: int, *, alpha: bool) -> bool:
    samples, deep = page.samplesperpixel, page.bitspersample > 8
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        return True  # palette, CMYK, YCbCr, ...
    packed = page.compression != PLAIN and page.compression not in DEFLATE
    if deep:
        return bool(packed and samples - alpha in (1, 3))  # Pillow drops the lower byte
    plain = 3 if page.photometric == RGB else 1
    if samples == plain + 1 and not alpha:  # RGB and an unspecified channel
        return plain == 3 and in_channels in (1, 3)
    return bool(samples == plain + alpha)


def _check_chunks(content: bytes, page: Any) -> None:
    """Raise DataError unless all strips or tiles are present and have the expected length."""
    if page.compression != PLAIN and page.compression not in DEFLATE:
        name = getattr(page.compression, "name", page.compression)
        raise DataError(f"{name} compression of such a TIFF is not read: use deflate or none")
    longest = math.prod(page.chunks) * page.dtype.itemsize
    total = 0
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start < 1 or length < 1 or start + length > len(content):
            raise DataError("the file is truncated")
        total += length
        if page.compression != PLAIN:
            total += _decompressed_length(content[start : start + length], longest) - length
    if total < page.nbytes:
        raise DataError("the file is truncated")


def _decompressed_length(chunk: bytes, longest: int) -> int:
    """Return the decompressed length of a strip or tile, without keeping it."""
    stream, length, data = zlib.decompressobj(), 0, chunk
    while data and not stream.eof:
        length += len(stream.decompress(data, 1 << 20))
        data = stream.unconsumed_tail
        if length > longest:
            raise DataError("a strip or tile is longer than it should be")
    return length
