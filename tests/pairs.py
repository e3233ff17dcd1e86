"""Small images with masks: boxes on noise, in the layouts that people have."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masktas.console import Console
from masktas.data.masks import classes_of, open_pairs
from masktas.data.segmentation import SegmentationImages
from masktas.data.store.image_store import SplitAccess

SIZE = (32, 48)
FOLDERS = ("images", "masks")
SHARES = {"search_share": 0.1, "validation_share": 0.2, "test_share": 0.2}
# of random numbers: of the first 12 images 2 are for testing, 2 for validation, 3 for the search
OFFSET = 180
COLORS = np.array([[40, 40, 40], [170, 20, 20], [20, 170, 20]])


def drawn(number: int, size: tuple[int, int] = SIZE) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return an image and its mask: classes 0 to 2, and 255 in the two first rows."""
    rng = np.random.default_rng(OFFSET + number)
    mask = np.zeros(size, np.uint8)
    for value in (1, 2):
        top, left = rng.integers(2, 18, 2)
        mask[top : top + 12, left : left + 16] = value
    mask[:2] = 255
    noise = rng.integers(0, 60, (*size, 3))
    return (noise + COLORS[np.where(mask == 255, 0, mask)]).astype(np.uint8), mask


def encoded(pixels: NDArray[Any], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_pairs(root: Path, count: int = 8) -> Path:
    """Write pairs as files; return the folder.

    Images are PPM files: what decides their split is the same with every version of Pillow.
    """
    for number in range(count):
        for folder, pixels, kind in zip(FOLDERS, drawn(number), ("PPM", "PNG"), strict=True):
            path = root / folder / f"{number}.{kind.lower()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(pixels, kind))
    return root


def opened(
    root: Path, *, classes: list[str] | None = None, ignore: int = 255, strict: bool = False
) -> SegmentationImages:
    """Open the pairs of a folder, for every split."""
    return SegmentationImages(
        open_pairs(str(root), image_column=None, ignore=ignore),
        in_channels=3,
        white=None,
        access=SplitAccess(SHARES, ("supernet", "search", "validation", "test")),
        classes=None if classes is None else classes_of(classes, ignore),
        ignore=ignore,
        strict=strict,
        bar=Console(quiet=True).bar,
    )
