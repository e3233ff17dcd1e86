"""Crops and flips, drawn for each image by itself and done on the device in float32.

Resampling is two small matrix products an image, `W_y x W_x^T`, with the weights of Pillow's
antialiased bilinear filter. Shapes: B images, C channels, I x I stored side, O x O output.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ASPECT = (3 / 4, 4 / 3)


def random_boxes(
    rng: np.random.Generator, batch: int, side: int, scale: tuple[float, float]
) -> NDArray[np.float64]:
    """Draw crops `[B, 4]` (top, left, height, width): area and aspect as RandomResizedCrop does."""
    area = rng.uniform(*scale, size=batch) * side * side
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), size=batch))
    height = np.minimum(np.sqrt(area / aspect), side)
    width = np.minimum(np.sqrt(area * aspect), side)
    top = rng.uniform(size=batch) * (side - height)
    left = rng.uniform(size=batch) * (side - width)
    return np.stack([top, left, height, width], axis=1)


def center_boxes(batch: int, side: int, size: int) -> NDArray[np.float64]:
    """Return the middle `size` pixels of every image as crops `[B, 4]`."""
    edge = (side - size) // 2  # whole pixels: half of one would blur
    return np.tile([edge, edge, size, size], (batch, 1)).astype(np.float64)


def resample_weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Return `[B, O, I]`: what each output pixel takes of each input pixel along one axis.

    Args:
        start, length: `[B]`, the crop along this axis, in input pixels.
        side: I. size: O.
    """
    scale = (length / size)[:, None, None]
    support = scale.clamp(min=1.0)
    centers = (
        start[:, None, None] + (torch.arange(size, device=start.device) + 0.5)[:, None] * scale
    )
    distance = (torch.arange(side, device=start.device) + 0.5 - centers).abs() / support
    weights = (1 - distance).clamp(min=0)  # the triangle filter
    return weights / weights.sum(dim=2, keepdim=True)


def crop(images: Tensor, boxes: Tensor, flips: Tensor | None, size: int) -> Tensor:
    """Cut, resize and mirror.

    Args:
        images: bytes `[B, I, I, C]`.
        boxes: `[B, 4]` (top, left, height, width) in pixels.
        flips: `[B]` booleans, or None.
        size: O.

    Returns:
        `[B, C, O, O]` float32 in [0, 255].
    """
    side = images.shape[1]
    pixels = images.permute(0, 3, 1, 2).float()  # [B, C, I, I]
    rows = resample_weights(boxes[:, 0], boxes[:, 2], side, size)
    columns = resample_weights(boxes[:, 1], boxes[:, 3], side, size)
    if flips is not None:
        columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    return rows[:, None] @ pixels @ columns.transpose(1, 2)[:, None]


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale `[B, C, O, O]` in [0, 255] to mean 0 and standard deviation 1 of each channel `[C]`."""
    return (images - mean[:, None, None] * 255) / (std[:, None, None] * 255)
