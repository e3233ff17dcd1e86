"""Mixup and CutMix: each image of a batch is mixed with another one, with one share per batch.

Source: Zhang et al., mixup, arXiv 1710.09412; Yun et al., CutMix, arXiv 1905.04899; both as in
timm's `Mixup` with mode `batch`: the partner of row i is row B - 1 - i.
Shapes: B images of the batch, R rows of it, C channels, h x w network input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.augment import to_device


@dataclass(frozen=True, slots=True)
class Mixed:
    """Rows of a batch, each mixed with its partner.

    Attributes:
        pixels: `[R, C, h, w]`, normalized.
        numbers: `[R]`, indices in the split of the images.
        partners: `[R]`, indices of the images mixed into them; `numbers` if nothing is mixed.
        share: `[R]`, weight of the image's own class, in [0, 1]; the partner's is 1 - share. 1 if
            nothing is mixed.
    """

    pixels: Tensor
    numbers: NDArray[np.int64]
    partners: NDArray[np.int64]
    share: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Mixing:
    """How the images of one batch are mixed.

    Attributes:
        share: weight of the image's own pixels, in [0, 1).
        box: (top, bottom, left, right) of the pixels that CutMix takes from the partner; None for
            mixup.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def random_mixing(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    probability: float,
    switch: float,
) -> Mixing | None:
    """Draw how a batch is mixed; None if it is not.

    Args:
        rng: source of randomness.
        size: (h, w) of the images.
        mixup, cutmix: parameters alpha of Beta(alpha, alpha), which the share is drawn from; 0
            switches one off.
        probability: of mixing the batch.
        switch: probability of CutMix if both are on.
    """
    mixes, cuts = rng.uniform(size=2) < (probability, switch)
    if not mixes or not (mixup or cutmix):
        return None
    cuts = cuts if mixup and cutmix else bool(cutmix)
    alpha = cutmix if cuts else mixup
    share = float(rng.beta(alpha, alpha))
    if not cuts:
        return Mixing(share) if share < 1 else None
    center = rng.integers(size)
    box = cut_box(size, share, (int(center[0]), int(center[1])))
    top, bottom, left, right = box
    share = 1 - (bottom - top) * (right - left) / math.prod(size)
    return Mixing(share, box) if share < 1 else None


def cut_box(
    size: tuple[int, int], share: float, center: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the box (top, bottom, left, right) of CutMix, clipped to the image.

    Args:
        size: (h, w) of the image.
        share: of the image's area that remains where nothing is clipped.
        center: (row, column) of the box.
    """
    ratio = math.sqrt(1 - share)
    edges: list[int] = []
    for side, middle in zip(size, center, strict=True):
        length = int(side * ratio)
        edges += [max(middle - length // 2, 0), min(middle + (length + 1) // 2, side)]
    top, bottom, left, right = edges
    return top, bottom, left, right


def mix(
    images: Tensor, own: NDArray[np.int64], partners: NDArray[np.int64], mixing: Mixing
) -> Tensor:
    """Return images mixed with their partners, `[R, C, h, w]`.

    Args:
        images: `[P, C, h, w]`, all images that are needed; overwritten if R = P.
        own, partners: `[R]`, positions in `images`, `own` ascending without repetition.
        mixing: how they are mixed.
    """
    # copied to the device without waiting for it
    mine, its = (to_device(torch.from_numpy(one), images.device) for one in (own, partners))
    if mixing.box is None:
        other = images[its].mul_(1 - mixing.share)
        kept = images if len(own) == len(images) else images[mine]
        return kept.mul_(mixing.share).add_(other)
    top, bottom, left, right = mixing.box
    other = images[:, :, top:bottom, left:right][its]
    kept = images if len(own) == len(images) else images[mine]
    kept[:, :, top:bottom, left:right] = other
    return kept
