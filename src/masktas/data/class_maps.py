"""Class maps as pictures: colours of classes, masks as PNG, overlays. Never imports torch.

Shapes: H x W pixels, C channels, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from os.path import splitext

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masktas.data.masks import IGNORED
from masktas.errors import DataError

OPACITY = 0.5  # of the colours on an image
BLACK = (0, 0, 0)  # of pixels without a class
LONGEST = 200  # characters of a file's name
Colors = NDArray[np.uint8]


def class_colors(count: int) -> Colors:
    """Return a colour for each class, `[K, 3]`, none of them black: those of Pascal VOC from 1 on.

    The bits of a number, three at a time from the lowest, are the bits of red, green and blue from
    the highest, so that the first numbers have colours far apart.
    """
    numbers = np.arange(1, count + 1)
    colors = np.zeros((count, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bits = (numbers >> (3 * place + channel)) & 1
            colors[:, channel] |= (bits << (7 - place)).astype(np.uint8)
    return colors


def colored(indices: NDArray[np.int16], colors: Colors) -> NDArray[np.uint8]:
    """Return a class map `[H, W]` in colours, `[H, W, 3]`; `IGNORED` is black."""
    table = np.vstack([colors, np.array([BLACK], np.uint8)])  # IGNORED is -1, the last row
    found: NDArray[np.uint8] = table[indices]
    return found


def visible(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image `[H, W, C]` in three channels: grey repeated; of many channels the first."""
    if pixels.shape[2] in (3, 4):
        return pixels[:, :, :3]
    return np.repeat(pixels[:, :, :1], 3, axis=2)


def overlay(
    pixels: NDArray[np.uint8], indices: NDArray[np.int16], colors: Colors
) -> NDArray[np.uint8]:
    """Lay the colours of a class map `[H, W]` over its image `[H, W, C]`: `[H, W, 3]`."""
    below, above = visible(pixels).astype(np.float32), colored(indices, colors)
    mixed = np.where((indices == IGNORED)[:, :, None], below, below + OPACITY * (above - below))
    return mixed.round().astype(np.uint8)


def mask_picture(indices: NDArray[np.int16], values: Sequence[int], colors: Colors) -> Image.Image:
    """Return a class map `[H, W]` as a mask that holds `values`, the number of each class.

    It has a palette with the colours of the classes; 16 bits of grey where a number is above 255.

    Raises:
        DataError: if a PNG cannot hold a number.
    """
    if wrong := [value for value in values if not 0 <= value < 2**16]:
        raise DataError(
            f"A class has the number {wrong[0]}, which a PNG mask cannot hold (0 to 65535): use "
            "masktas.load(PATH).predict(IMAGES), which returns arrays."
        )
    numbers = np.asarray(values)[indices]
    if max(values) > 255:
        return Image.fromarray(numbers.astype(np.uint16))
    palette = np.zeros((256, 3), np.uint8)
    palette[list(values)] = colors
    picture = Image.fromarray(numbers.astype(np.uint8), "L")
    picture.putpalette(palette.tobytes())
    return picture


class FileNames:
    """Names of files for images: like those of the images, in a folder, each once.

    Folders stay, so that an image and its mask are a pair (`masktas.data.masks`). What is not a
    plain name becomes one, since an archive may hold names such as `../a.png`.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, name: str) -> str:
        """Return the relative path of a PNG file for an image."""
        parts = [re.sub(r"[^\w.+ -]", "_", part)[:LONGEST] for part in splitext(name)[0].split("/")]
        kept = [part for part in parts if part.strip(". ")] or ["image"]
        stem, number = "/".join(kept), 1
        found = stem
        while found.lower() in self._taken:
            number += 1
            found = f"{stem}-{number}"
        self._taken.add(found.lower())
        return f"{found}.png"
