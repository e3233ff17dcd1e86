"""Random erasing: a box of an image becomes noise, drawn for each image.

Source: Zhong et al., Random Erasing Data Augmentation, arXiv 1708.04896, with timm's mode `pixel`
and its ranges of area and aspect.
Shapes: B images, C channels, h x w network input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.augment import to_device

AREA = (0.02, 1 / 3)  # of the image
ASPECT = 1 / 0.3  # the largest height / width, and width / height
ATTEMPTS = 10  # boxes drawn; the first that is smaller than the image is taken


@dataclass(frozen=True, slots=True)
class Erasures:
    """Boxes drawn for each image.

    Attributes:
        boxes: `[B, 4]` (top, left, height, width); of area 0 if nothing is erased.
        seeds: `[B]`, of the noise of each image, so that a process draws only that of its rows.
    """

    boxes: NDArray[np.int64]
    seeds: NDArray[np.int64]

    def rows(self, rows: slice | NDArray[np.int64]) -> Erasures:
        """Return the boxes of some of the images."""
        return Erasures(self.boxes[rows], self.seeds[rows])


def random_erasures(
    rng: np.random.Generator, batch: int, size: tuple[int, int], probability: float
) -> Erasures:
    """Draw boxes in images of `size`, distributed as in timm's RandomErasing."""
    erased = rng.uniform(size=batch) < probability
    areas = rng.uniform(*AREA, size=(batch, ATTEMPTS)) * math.prod(size)
    aspects = np.exp(rng.uniform(-math.log(ASPECT), math.log(ASPECT), size=(batch, ATTEMPTS)))
    sides = np.sqrt(np.stack([areas * aspects, areas / aspects], axis=2))
    lengths = np.rint(sides).astype(np.int64)
    fitting = (lengths < size).all(axis=2)
    lengths = lengths[np.arange(batch), fitting.argmax(axis=1)]
    fits = np.asarray(fitting, dtype=np.bool_).any(axis=1)
    lengths[~(erased & fits)] = 0
    starts = (rng.uniform(size=(batch, 2)) * (size - lengths + 1)).astype(np.int64)
    seeds = rng.integers(2**63, size=batch)
    return Erasures(np.concatenate([starts, lengths], axis=1), seeds)


def erase(images: Tensor, erasures: Erasures) -> None:
    """Fill the boxes of normalized images `[B, C, h, w]` with standard normal noise, in place."""
    boxes, channels = erasures.boxes.tolist(), images.shape[1]
    sizes = [channels * height * width for *_, height, width in boxes]
    noise = np.empty(sum(sizes), dtype=np.float32)
    for part, seed in zip(np.split(noise, np.cumsum(sizes))[:-1], erasures.seeds, strict=True):
        np.random.default_rng(seed).standard_normal(dtype=np.float32, out=part)
    filled = to_device(torch.from_numpy(noise), images.device).split(sizes)  # one copy for all
    for image, box, fill in zip(images, boxes, filled, strict=True):
        top, left, height, width = box
        area = image[:, top : top + height, left : left + width]
        area.copy_(fill.view(area.shape))
