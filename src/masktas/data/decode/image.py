"""Decode an encoded image or an array to uint8 pixels of a given size.

For any input the result is an image or a DataError: only listed formats are opened, sizes are
checked before memory is allocated, and truncated files are refused. Decoding takes less than 1.2 GB
in addition to the interpreter and the file.
"""

from __future__ import annotations

import ctypes
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageMode, UnidentifiedImageError, _imaging

from masktas.data.decode import tiff
from masktas.data.decode.pixels import (
    MAX_PIXELS,
    MODES,
    SIDEWAYS,
    check_channels,
    check_shape,
    check_size,
    fit_array,
    fit_image,
    npy_shape,
    read_npy,
    to_bytes,
)
from masktas.errors import DataError

# Excluded: formats that start programs (EPS) or refer to other files, formats without a signature,
# and JPEG 2000, whose decoder allocates memory by the header.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP")
COPIED = ("AVIF", "WEBP")  # decoders with several copies of all pixels, as for 16-bit PNGs
MAX_COPIED_PIXELS = 40_000_000
MAX_SCANNED_PIXELS = 3_000_000_000  # a progressive JPEG decodes its pixels once per scan
TGA_MARK = b"TRUEVISION-XFILE.\0"
NPY_MARK = b"\x93NUMPY"
Content = bytes | NDArray[Any]


def decode(
    content: Content, *, size: tuple[int, int], in_channels: int, white: float | None = None
) -> NDArray[np.uint8]:
    """Decode to `[H, W, C]`: upright, scaled to cover `size`, center-cropped.

    Gray is converted to RGB and RGB to gray (luminance); transparency is composited over white, or
    kept as the fourth channel. Any other number of channels must be that of the file.

    Args:
        content: a file (JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, TGA, AVIF, `.npy`) or an array
            `[H, W]` or `[H, W, C]` of booleans, integers or floats. The first frame of an
            animation is used.
        size: (H, W) of the result in pixels.
        in_channels: C.
        white: value that becomes 255 if there are more than 8 bits, such as 4095 for 12 bits
            stored in 16; None: see `pixels.to_bytes`.

    Raises:
        DataError: if it cannot be decoded, with a short reason.
    """
    with reasons():
        if isinstance(content, np.ndarray):
            return fit_array(to_bytes(content, white), size, in_channels)
        if content.startswith(NPY_MARK):
            return fit_array(to_bytes(read_npy(content), white), size, in_channels)
        if content.startswith(tiff.MAGIC):
            _silence_libtiff()
            page = tiff.read_header(content, in_channels)
            if page.pages:
                pixels = to_bytes(tiff.read_pages(content, page), white)
                return fit_array(
                    pixels, size, in_channels, alpha=page.alpha, orientation=page.orientation
                )
        if (values := deep_ppm(content)) is not None:
            array, full = values
            return fit_array(to_bytes(array, white or full), size, in_channels)
        return _decode_picture(content, size, in_channels, white)


def is_grey(content: Content) -> bool:
    """Return whether an image has one channel, beside transparency, by its header.

    Raises:
        DataError: if it is not an image, or too large.
    """
    with reasons():
        if isinstance(content, np.ndarray) or content.startswith(NPY_MARK):
            shape = content.shape if isinstance(content, np.ndarray) else npy_shape(content)[0]
            return len(shape) == 2 or shape[2] == 1
        if content.startswith(tiff.MAGIC):
            return tiff.is_grey(content)
        with open_picture(content) as image:
            return ImageMode.getmode(image.mode).basemode == "L"


def dimensions(content: Content) -> tuple[int, int]:
    """Return (height, width) of the upright image, read from the header.

    Raises:
        DataError: if it is not an image, or too large.
    """
    with reasons():
        if isinstance(content, np.ndarray):
            check_shape(content.shape, content.itemsize)
            return content.shape[0], content.shape[1]
        if content.startswith(NPY_MARK):
            shape, *_ = npy_shape(content)
            return shape[0], shape[1]
        if content.startswith(tiff.MAGIC):
            page = tiff.read_header(content, 1)
            height, width, orientation = page.height, page.width, page.orientation
        else:
            with open_picture(content) as image:
                width, height = image.size
                # only PNG may store EXIF after the pixels
                late = image.format == "PNG" and "exif" not in image.info
                orientation = 1 if late and b"eXIf" not in content else _orientation(image)
        return (width, height) if orientation in SIDEWAYS else (height, width)


# --- files ---------------------------------------------------------------------------------------


def open_picture(content: bytes) -> ImageFile.ImageFile:
    """Read the header; refuse an image that is too large before the decoder allocates memory."""
    if not content:
        raise DataError("empty")
    if content[:4] == b"RIFF" and content[8:16] == b"WEBPVP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
        check_size(width, height, most=MAX_COPIED_PIXELS)
    formats = [name for name in _formats() if name != "TGA" or content.endswith(TGA_MARK)]
    image = Image.open(io.BytesIO(content), formats=formats)
    check_size(*image.size, most=MAX_COPIED_PIXELS if image.format in COPIED else MAX_PIXELS)
    if image.info.get("progressive"):
        check_size(*image.size, most=MAX_SCANNED_PIXELS // max(1, _scans(content)))
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that the installed Pillow supports; AVIF is recent."""
    Image.init()
    with suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # 100 MB each; images are decoded in parallel
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _scans(content: bytes) -> int:
    """Count the scans of a JPEG up to its end marker."""
    scans, at = 0, 2
    marker = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
    while (found := marker.search(content, at)) is not None:
        kind, at = found[1][0], found.end()
        if kind == 0xD9:
            break
        scans += kind == 0xDA
        at += int.from_bytes(content[at : at + 2], "big")
    return scans


def _decode_picture(
    content: bytes, size: tuple[int, int], in_channels: int, white: float | None
) -> NDArray[np.uint8]:
    with open_picture(content) as image:
        if image.format in ("JPEG", "MPO"):
            # decode at a reduced size, accurate from three times the target size
            sideways = _orientation(image) in SIDEWAYS
            height, width = size[::-1] if sideways else size
            image.draft(MODES.get(in_channels), (3 * width, 3 * height))
        deep = _deep_png(content, image, white)
        image.load()
        orientation = _orientation(image)
        if deep is not None or image.mode in ("I", "F") or image.mode.startswith("I;"):
            array = np.asarray(image) if deep is None else deep
            if image.format in ("PPM", "PNG") and white is None:
                white = 65535  # Pillow scales PPM to 16 bits; older ones open PNG as mode I
            return fit_array(
                to_bytes(array, white), size, in_channels,
                alpha=array.ndim == 3 and array.shape[2] in (2, 4), orientation=orientation,
            )  # fmt: skip
        plain = _plain(image)
        if in_channels not in MODES:
            check_channels(len(plain.getbands()), in_channels)
            return fit_array(np.array(plain), size, in_channels, orientation=orientation)
        return fit_image(plain, size, in_channels, orientation)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; damaged EXIF, which is common, counts as upright."""
    try:
        orientation = image.getexif().get(tiff.ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _plain(image: Image.Image) -> Image.Image:
    """Convert to L, LA, RGB or RGBA."""
    if image.mode in ("LA", "RGBA"):
        return image
    if image.mode == "La":
        return image.convert("LA")
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _deep_png(
    content: bytes, image: ImageFile.ImageFile, white: float | None
) -> NDArray[np.uint16] | None:
    """Return 16-bit color of a PNG, `[H, W, C]`; None if it has no 16-bit color.

    Pillow keeps the upper 8 bits only; with the raw mode of the other byte order it decodes the
    lower ones.
    """
    raw = image.tile[0].args if image.format == "PNG" and image.tile else None
    if raw == "LA;16B" and white is not None:
        raise DataError("16 bits of grey with transparency are read without --white only")
    if raw not in ("RGB;16B", "RGBA;16B"):
        return None
    check_size(*image.size, most=MAX_COPIED_PIXELS)
    with open_picture(content) as again:
        again.tile = [again.tile[0]._replace(args=str(raw).replace("16B", "16L"))]
        lower = np.asarray(again)
    values = np.asarray(image).astype(np.uint16)
    values <<= 8
    values |= lower
    return values


def deep_ppm(content: bytes) -> tuple[NDArray[Any], float] | None:
    """Return the values of a binary PGM or PPM whose white is not 255, and its white.

    Pillow reads such files value by value in Python.
    """
    header = re.match(rb"P([56])" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 3 + rb"\s", content[:4096])
    if header is None or header[4] == b"255":
        return None
    channels = 3 if header[1] == b"6" else 1
    width, height, full = (int(header[number]) for number in (2, 3, 4))
    check_shape((height, width, channels), 2)
    if not 0 < full < 65536:
        raise DataError(f"{full} as white")
    kind = np.dtype(">u2" if full > 255 else "u1")
    count = width * height * channels
    if len(content) - header.end() < count * kind.itemsize:
        raise DataError("the file is truncated")
    values = np.frombuffer(content, kind, count, header.end()).astype(np.uint16)
    return values.reshape(height, width, channels), full


# --- errors --------------------------------------------------------------------------------------


@contextmanager
def reasons() -> Iterator[None]:
    """Turn any exception of a decoder into a DataError with one short line."""
    with QUIET.entered():
        try:
            yield
        except DataError:
            raise
        except UnidentifiedImageError:
            raise DataError("not an image") from None
        except Image.DecompressionBombError:
            raise DataError("its pixels are too many") from None
        except MemoryError:
            raise DataError("needs too much memory") from None
        except Exception as error:  # from SyntaxError to struct.error
            lines = str(error).split(" <")[0].split()
            reason = " ".join(lines)[:120] or type(error).__name__
            raise DataError(reason) from None


@cache
def _silence_libtiff() -> None:
    """Silence the messages of libtiff on stderr; Pillow raises them as exceptions too."""
    with suppress(OSError, AttributeError):  # Pillow may be built with other symbol names
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            getattr(library, name)(None)


class _Quiet:
    """Silences warnings and logs of decoders while any thread decodes.

    `catch_warnings` alone restores the wrong filters if two threads overlap.
    """

    LOGGERS = ("tifffile", "PIL.TiffImagePlugin")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stack = ExitStack()

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                for name in self.LOGGERS:
                    logger = logging.getLogger(name)
                    self._stack.callback(setattr, logger, "disabled", logger.disabled)
                    logger.disabled = True
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._stack.close()


QUIET = _Quiet()
