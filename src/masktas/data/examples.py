"""Pictures of segmented images: image, mask and what was found, a row for each. No torch here.

Shapes: H x W pixels, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masktas.data.class_maps import class_colors, colored, visible
from masktas.data.masks import IGNORED
from masktas.errors import ArtifactError
from masktas.files import read_json, write_atomic, write_json

EXAMPLES = "examples.png"  # images, their masks, and what the segmenter finds
SHOWN = "examples.json"  # which images, and which classes occur in the picture
NUM_EXAMPLES = 6
SIDE = 240  # pixels of the longer side of a picture
GAP = 8  # pixels between pictures
Pixels = NDArray[np.uint8]
Indices = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Example:
    """An image, its mask and what was found, side by side.

    Attributes:
        name: of the image.
        picture: `[h, w, 3]`.
        classes: indices of the classes that occur in mask or answer.
        miou: mean IoU over the classes of its mask, as a share; None if it was not measured.
    """

    name: str
    picture: Pixels
    classes: frozenset[int]
    miou: float | None = None

    @staticmethod
    def of(
        name: str,
        pixels: Pixels,
        truth: Indices,
        found: Indices,
        *,
        num_classes: int,
        miou: float | None = None,
    ) -> Example:
        """Draw an image `[H, W, C]`, its mask and the answer, both `[H, W]`.

        Pixels of the mask that are ignored are black.
        """
        colors = class_colors(num_classes)
        pictures = [_fitted(visible(pixels), Image.Resampling.BILINEAR)]
        pictures += [
            _fitted(colored(one, colors), Image.Resampling.NEAREST) for one in (truth, found)
        ]
        occur = set(np.unique(truth).tolist()) | set(np.unique(found).tolist())
        return Example(name, _joined(pictures, axis=1), frozenset(occur - {IGNORED}), miou)


@dataclass(frozen=True, slots=True)
class Examples:
    """What `examples.png` shows.

    Attributes:
        names: of the images, one for each row.
        classes: indices of the classes that occur, in the masks or in what was found.
        mious: mean IoU of each image; empty if it was not measured.
    """

    names: tuple[str, ...]
    classes: tuple[int, ...]
    mious: tuple[float, ...] = ()

    @staticmethod
    def write(folder: Path, shown: Sequence[Example]) -> None:
        """Write `examples.png` and `examples.json`."""
        width = max(one.picture.shape[1] for one in shown)
        lines = [
            np.pad(
                one.picture,
                ((0, 0), (0, width - one.picture.shape[1]), (0, 0)),
                constant_values=255,
            )
            for one in shown
        ]
        picture = Image.fromarray(_joined(lines, axis=0))
        write_atomic(folder / EXAMPLES, lambda temporary: picture.save(temporary, "PNG"))
        content: dict[str, Any] = {
            "names": [one.name for one in shown],
            "classes": sorted(frozenset[int]().union(*(one.classes for one in shown))),
        }
        if mious := [one.miou for one in shown if one.miou is not None]:
            content["mious"] = mious
        write_json(folder / SHOWN, content)

    @staticmethod
    def read(folder: Path, num_classes: int) -> Examples | None:
        """Read `examples.json` of a folder; None if nothing was drawn.

        Raises:
            ArtifactError: if it is damaged, or names a class that there is not.
        """
        path = folder / SHOWN
        if not path.exists():
            return None
        content = read_json(path)
        try:
            found = Examples(
                tuple(map(str, content["names"])),
                tuple(map(int, content["classes"])),
                tuple(map(float, content.get("mious", ()))),
            )
            wrong = [one for one in found.classes if not 0 <= one < num_classes]
            if wrong:
                raise ValueError(f"there is no class {wrong[0]}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path}: damaged ({error}). Run the stage again with --overwrite."
            ) from None
        return found


def _fitted(pixels: Pixels, how: Image.Resampling) -> Pixels:
    """Scale a picture `[H, W, 3]` to a longer side of `SIDE`."""
    height, width = pixels.shape[:2]
    factor = SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, how))


def _joined(pictures: Sequence[Pixels], *, axis: int) -> Pixels:
    """Put pictures beside or below each other, with white between them."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    between = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, between)]
    return np.concatenate(parts[:-1], axis=axis)
