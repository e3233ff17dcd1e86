"""Decode a segmentation mask to the numbers that it holds, which are no colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from masktas.data.decode.image import NPY_MARK, Content, deep_ppm, open_picture, reasons
from masktas.data.decode.pixels import read_npy
from masktas.errors import DataError

LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
SCALED = {"L;2": 85, "L;4": 17}  # grey of 2 and 4 bits, which Pillow stretches to 0..255


def decode_mask(content: Content) -> NDArray[np.int32]:
    """Return the numbers of a mask, `[H, W]`: of a palette its indices, of 1 to 16 bits of grey.

    A colour image is accepted if all its channels are equal; its transparency is ignored.

    Args:
        content: a file (PNG, TIFF, BMP, GIF, PPM, TGA, `.npy`) or an array `[H, W]`.

    Raises:
        DataError: if it cannot be decoded, is of a format that changes numbers (JPEG), or holds
            colours, with a short reason.
    """
    with reasons():
        if isinstance(content, np.ndarray):
            return _numbers(content)
        if content.startswith(NPY_MARK):
            return _numbers(read_npy(content))
        if (values := deep_ppm(content)) is not None:  # Pillow would stretch them
            return _numbers(values[0])
        with open_picture(content) as image:
            if image.format in LOSSY:
                raise DataError(
                    f"a {image.format} file, which blurs the numbers of classes at their edges: "
                    "save masks as PNG"
                )
            args = image.tile[0].args  # of the decoder: how bits are packed, of TIFF among others
            packed = args[0] if isinstance(args, tuple) and args else args
            stretched = SCALED.get(str(packed), 1) if image.format in ("PNG", "TIFF") else 1
            image.load()
            return _numbers(np.asarray(image)) // stretched


def _numbers(values: NDArray[np.generic]) -> NDArray[np.int32]:
    """Return an array's numbers, one for each pixel."""
    if values.dtype.kind not in "bui":
        raise DataError(f"values of type {values.dtype}: a mask holds the whole numbers of classes")
    if values.ndim == 3:
        colors = values[:, :, : 3 if values.shape[2] >= 3 else 1]
        if not (colors == colors[:, :, :1]).all():
            raise DataError(
                "colours: a mask holds the number of a class in each pixel, as grey or palette"
            )
        values = colors[:, :, 0]
    if values.ndim != 2:
        raise DataError(f"an array of shape {values.shape}: a mask has height and width")
    if values.size and not -(2**31) <= int(values.min()) <= int(values.max()) < 2**31:
        raise DataError("a number that is too large for a class")
    return values.astype(np.int32)
