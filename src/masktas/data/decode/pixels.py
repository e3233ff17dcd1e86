"""Conversion of arrays to uint8, and resizing of images.

Shapes: H x W of the input, h x w of the result, C channels.
"""

from __future__ import annotations

import ast
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from masktas.errors import DataError

MAX_PIXELS = 90_000_000  # larger images are refused as decompression bombs
MAX_BYTES = 400_000_000  # of an array, over all channels
BLOCK = 1 << 20  # values converted at a time
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
TURNS = {  # EXIF orientation: transposition to upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def check_size(width: int, height: int, *, most: int = MAX_PIXELS) -> None:
    """Raise DataError if an image is empty or too large to be decoded in bounded memory."""
    if min(width, height) < 1:
        raise DataError("has no pixels")
    if width * height > most:
        raise DataError(f"{width} x {height} pixels are too many")


def check_shape(shape: tuple[int, ...], itemsize: int) -> None:
    """Raise DataError unless this is the shape of an image, `[H, W]` or `[H, W, C]`."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataError(f"an array of shape {list(shape)} is not [height, width, channels]")
    check_size(shape[1], shape[0])
    if math.prod(shape) * itemsize > MAX_BYTES:
        raise DataError(f"an array of shape {list(shape)} is too large")


def to_bytes(array: NDArray[Any], white: float | None) -> NDArray[np.uint8]:
    """Scale values of any type to 0 ... 255, `[H, W, C]`.

    Bytes are unchanged, True becomes 255. For other types `white` becomes 255; without it the
    maximum of an integer type of 16 bits, and for floats 1, or 255 if a value is above 2. Negative
    values and NaN become 0.

    Args:
        array: `[H, W]` or `[H, W, C]`.
        white: value that becomes 255, such as 4095 for 12 bits.

    Raises:
        DataError: if it has another shape, a type that is not numeric, or integers of more than 16
            bits without `white`: nobody uses their whole range.
    """
    check_shape(array.shape, array.itemsize)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    kind = array.dtype.kind
    if kind not in "buif":
        raise DataError(f"values of type {array.dtype} are no pixels")
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if white is None and kind in "ui" and array.itemsize > 2:
        raise DataError(f"values of type {array.dtype}, of which white is not known (--white 255)")
    if white is None:
        white = _float_white(array) if kind == "f" else float(np.iinfo(array.dtype).max)
    result = np.empty(array.shape, dtype=np.uint8)
    rows = max(1, BLOCK // math.prod(array.shape[1:]))
    with np.errstate(all="ignore"):
        for start in range(0, len(array), rows):
            block = array[start : start + rows].astype(np.float64)
            block *= 255 / white
            np.nan_to_num(block, copy=False, nan=0, posinf=255, neginf=0)
            result[start : start + rows] = block.clip(0, 255) + 0.5
    return result


def _float_white(array: NDArray[Any]) -> float:
    """Return 1 or 255, by the maximum; a resampling filter may slightly exceed 1."""
    most = max(float(np.max(row, initial=0, where=np.isfinite(row))) for row in array)
    return 1.0 if most <= 2 else 255.0


def fit_image(
    image: Image.Image, size: tuple[int, int], in_channels: int, orientation: int = 1
) -> NDArray[np.uint8]:
    """Scale to cover `size`, center-crop and turn upright, `[h, w, C]`.

    Args:
        image: of mode L, LA, RGB or RGBA.
        size: (h, w) of the result.
        in_channels: 1, 3 or 4. Transparency is composited over white, or the fourth channel.
        orientation: EXIF orientation.
    """
    wanted = size if orientation in SIDEWAYS else (size[1], size[0])
    if image.size != wanted:
        image = ImageOps.fit(image, wanted, Image.Resampling.BICUBIC)
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if image.mode in ("LA", "RGBA") and in_channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.array(image.convert(MODES[in_channels]), dtype=np.uint8)
    return pixels.reshape(*size, in_channels)


def fit_array(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    in_channels: int,
    *,
    alpha: bool = False,
    orientation: int = 1,
) -> NDArray[np.uint8]:
    """Do the same with uint8 `[H, W, C]` of any C; only gray and RGB are converted to each other.

    Args:
        pixels: the image.
        size: (h, w) of the result.
        in_channels: of the result.
        alpha: whether the last channel is opacity.
        orientation: EXIF orientation.

    Raises:
        DataError: if the number of channels differs.
    """
    channels = pixels.shape[2]
    picture = channels in (1, 3) or (alpha and channels in (2, 4))
    if picture and in_channels in MODES:
        flat = pixels[:, :, 0] if channels == 1 else pixels
        return fit_image(Image.fromarray(flat), size, in_channels, orientation)
    check_channels(channels, in_channels)
    planes = [
        fit_image(Image.fromarray(np.ascontiguousarray(pixels[:, :, c])), size, 1, orientation)
        for c in range(channels)
    ]
    return np.concatenate(planes, axis=2)


def check_channels(channels: int, in_channels: int) -> None:
    """Raise DataError, with both numbers, if they differ."""
    if channels != in_channels:
        plural = "" if channels == 1 else "s"
        raise DataError(
            f"has {channels} channel{plural}, not {in_channels}: give --in-channels {channels}"
        )


def npy_shape(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Read the header of a `.npy` file: shape, type, Fortran order, offset of the data.

    Raises:
        DataError: if it is not a `.npy` file, or holds Python objects.
    """
    try:
        long = content[6] > 1
        length = int.from_bytes(content[8 : 12 if long else 10], "little")
        start = (12 if long else 10) + length
        if length > 10_000 or len(content) < start:
            raise ValueError
        header = ast.literal_eval(content[start - length : start].decode("latin1").strip())
        shape = tuple(header["shape"])
        dtype = np.dtype(header["descr"])
        if not all(type(n) is int and n >= 0 for n in shape) or dtype.kind not in "buif":
            raise ValueError
    except Exception:
        raise DataError("not an array of numbers") from None
    check_shape(shape, dtype.itemsize)
    return shape, dtype, bool(header.get("fortran_order")), start


def read_npy(content: bytes) -> NDArray[Any]:
    """Return the array of a `.npy` file as a view of `content`; nothing is unpickled."""
    shape, dtype, fortran_order, start = npy_shape(content)
    count = math.prod(shape)
    if len(content) - start < count * dtype.itemsize:
        raise DataError("the array is truncated")
    flat = np.frombuffer(content, dtype, count, start)
    return flat.reshape(shape, order="F" if fortran_order else "C")
