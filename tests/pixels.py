"""Batches of images of noise."""

from __future__ import annotations

import numpy as np
import torch


def random_images(batch: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, height, width, channels), dtype=np.uint8)
    return torch.from_numpy(pixels)


def channels_first(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float()
