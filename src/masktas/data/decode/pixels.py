"""Arrays of any type as bytes, and bytes at the size that training reads.

Shapes: H x W as it comes, h x w as it is wanted, C channels.
"""

from __future__ import annotations

import ast
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from masktas.errors import DataError

MAX_PIXELS = 90_000_000  # a header that claims more is taken for an attack on memory
MAX_BYTES = 400_000_000  # of an array of several channels or bytes a value
BLOCK = 1 << 20  # values converted at once
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
TURNS = {  # EXIF orientation: how to put a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = (5, 6, 7, 8)  # orientations that exchange height and width


def check_size(width: int, height: int, *, most: int = MAX_PIXELS) -> None:
    """Raise DataError for an image that is empty or too large to be decoded in bounded memory."""
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

    Bytes stay as they are, True is 255. Of other types `white` becomes 255; without it the largest
    value of an integer type, and for floats 1, or 255 where a value is above 2. Negative
    values and NaN become 0.

    Args:
        array: `[H, W]` or `[H, W, C]`.
        white: the value that becomes 255, such as 4095 for 12 bits.

    Raises:
        DataError: if it has another shape, or values that are no numbers.
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
    """Tell [0, 1] from [0, 255]; a resampling filter may have gone a little over 1."""
    most = max(float(np.max(row, initial=0, where=np.isfinite(row))) for row in array)
    return 1.0 if most <= 2 else 255.0


def fit_image(
    image: Image.Image, size: tuple[int, int], in_channels: int, orientation: int = 1
) -> NDArray[np.uint8]:
    """Scale to cover `size`, cut out the middle, turn upright; `[h, w, C]`.

    Args:
        image: of mode L, LA, RGB or RGBA.
        size: (h, w) of the result.
        in_channels: 1, 3 or 4. Transparency is laid over white, or the fourth channel.
        orientation: of EXIF.
    """
    wanted = size if orientation in LYING else (size[1], size[0])
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
    """Do the same with bytes `[H, W, C]`; grey and colour become each other, no others do.

    Args:
        pixels: the image.
        size: (h, w) of the result.
        in_channels: of the result.
        alpha: whether the last channel says how opaque a pixel is.
        orientation: of EXIF.

    Raises:
        DataError: if it has another number of channels.
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
    """Raise DataError, with both numbers, unless they are the same."""
    if channels != in_channels:
        plural = "" if channels == 1 else "s"
        raise DataError(
            f"has {channels} channel{plural}, not {in_channels}: give --in-channels {channels}"
        )


def npy_shape(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Read the header of a `.npy` file: shape, type, whether columns come first, where data begin.

    Raises:
        DataError: if it is none, or holds Python objects.
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
    """Return the array in a `.npy` file, where it lies: nothing is unpickled or allocated."""
    shape, dtype, columns_first, start = npy_shape(content)
    count = math.prod(shape)
    if len(content) - start < count * dtype.itemsize:
        raise DataError("the array is truncated")
    flat = np.frombuffer(content, dtype, count, start)
    return flat.reshape(shape, order="F" if columns_first else "C")
