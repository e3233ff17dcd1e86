"""Decode an image file to the square of bytes that training reads."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from masktas.errors import DataError

MODES = {1: "L", 3: "RGB"}
MAX_PIXELS = 90_000_000  # a header that claims more is taken for an attack on memory


def decode(content: bytes, *, size: int, in_channels: int) -> NDArray[np.uint8]:
    """Decode to `[size, size, C]`: upright, short side scaled to `size`, the middle cut out.

    Args:
        content: an encoded image, any format, mode and size that Pillow reads.
        size: side of the result in pixels.
        in_channels: 1 for grey, 3 for colour; transparency is laid over white.

    Raises:
        DataError: if it cannot be decoded, with Pillow's reason.
    """
    try:
        with Image.open(io.BytesIO(content)) as file:
            if file.width * file.height > MAX_PIXELS:
                raise DataError(f"{file.width} x {file.height} pixels are too many")
            image = ImageOps.exif_transpose(file)
            image = _flatten(image, MODES[in_channels])
    except UnidentifiedImageError:
        raise DataError("not an image") from None
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        raise DataError(str(error) or type(error).__name__) from None
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels.reshape(size, size, in_channels)


def short_side(content: bytes) -> int:
    """Return the short side of an encoded image in pixels, from its header; see `decode`."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            return min(file.size)
    except Exception as error:
        raise DataError(str(error) or type(error).__name__) from None


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # 16 bits of grey: keep the upper 8
        image = Image.fromarray(
            (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
