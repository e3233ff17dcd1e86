"""Crops, flips and colours, drawn for each image by itself and done on the device in float32.

Shapes: B images, C channels, H x W stored, h x w output.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.resample import dense, in_c, interpolated, native

ASPECT = (3 / 4, 4 / 3)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and torchvision weigh red, green, blue

# --- crops ---------------------------------------------------------------------------------------


def random_boxes(
    rng: np.random.Generator, batch: int, size: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.int64]:
    """Draw crops `[B, 4]` (top, left, height, width) as RandomResizedCrop does, in whole pixels.

    Args:
        rng: what they hang on.
        batch: B.
        size: (H, W) of what is cropped. Aspects are relative to it: a crop is as much wider or
            taller than the image as one of a square is than a square.
        scale: least and most share of the area.
    """
    share = rng.uniform(*scale, size=batch)
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), size=batch))
    shares = np.stack([np.sqrt(share / aspect), np.sqrt(share * aspect)], axis=1)
    whole = np.array(size)
    lengths = np.rint(whole * shares.clip(max=1)).clip(1, whole).astype(np.int64)
    starts = (rng.uniform(size=(batch, 2)) * (whole - lengths + 1)).astype(np.int64)
    return np.concatenate([starts, lengths], axis=1)


def center_boxes(batch: int, stored: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the middle `size` pixels of every image of size `stored` as crops `[B, 4]`."""
    edges = [(large - small) // 2 for large, small in zip(stored, size, strict=True)]
    return np.tile(np.array([*edges, *size], dtype=np.int64), (batch, 1))


def crop(
    images: Tensor | NDArray[np.uint8],
    boxes: Tensor | NDArray[np.int64],
    flips: Tensor | NDArray[np.bool_] | None,
    size: tuple[int, int],
    *,
    numbers: NDArray[np.int64] | None = None,
    colors: Tensor | NDArray[np.float32] | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """Cut, resize and mirror; on demand, recolour and normalise in the same pass.

    Args:
        images: bytes `[B, H, W, C]`, a tensor on the device where the result is wanted; an array
            (a memory-mapped file) is one on the CPU.
        boxes: `[B, 4]` (top, left, height, width), whole pixels inside the image.
        flips: `[B]`, which are mirrored, left to right; None: none.
        size: (h, w).
        numbers: `[B]`, which of `images`, in what order; they are read where they lie.
        colors: factors `[B, 3]`; given, the result is that of `recolor` after it.
        mean, std: of each channel `[C]`; given, the result is that of `normalize` after that.

    Returns:
        `[B, C, h, w]` float32 in [0, 255], or normalised.
    """
    on_device = isinstance(images, Tensor) and images.device.type != "cpu"
    if on_device or (library := native()) is None:
        cut = _in_torch(images, boxes, flips, size, numbers)
        cut = cut if colors is None else recolor(cut, torch.as_tensor(colors))
        return cut if mean is None or std is None else normalize(cut, mean, std)
    if numbers is None:
        numbers = np.arange(len(images))
    whole = np.asarray(boxes).astype(np.int64)
    mirrored = np.zeros(len(numbers), np.bool_) if flips is None else np.asarray(flips)
    _check(images, whole, mirrored, numbers)
    images = images.contiguous() if isinstance(images, Tensor) else np.ascontiguousarray(images)
    gain, bias = torch.ones(images.shape[3]), torch.zeros(images.shape[3])
    if mean is not None and std is not None:
        gain, bias = 1 / (255 * std), -mean / std
    factors = None if colors is None else np.asarray(colors, dtype=np.float32)
    if factors is not None and factors.shape != (len(numbers), 3):
        raise ValueError(f"{len(numbers)} images, colours {factors.shape}")
    return in_c(library, images, numbers, whole, mirrored, size, factors, gain, bias)


def _in_torch(
    images: Tensor | NDArray[np.uint8],
    boxes: Tensor | NDArray[np.int64],
    flips: Tensor | NDArray[np.bool_] | None,
    size: tuple[int, int],
    numbers: NDArray[np.int64] | None,
) -> Tensor:
    if numbers is not None:
        images = images[numbers]
    if not isinstance(images, Tensor):
        images = torch.from_numpy(np.array(images))  # a copy: the file is not to be written to
    if images.device.type != "cpu":
        placed = [
            None if one is None else torch.as_tensor(one, device=images.device)
            for one in (boxes, flips)
        ]
        assert placed[0] is not None
        return dense(images, placed[0], placed[1], size)
    whole = np.asarray(boxes).astype(np.int64)
    mirrored = np.zeros(len(images), np.bool_) if flips is None else np.asarray(flips)
    _check(images, whole, mirrored, np.arange(len(images)))
    return interpolated(images, whole, mirrored, size)


def _check(
    images: Tensor | NDArray[np.uint8],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    numbers: NDArray[np.int64],
) -> None:
    """Raise ValueError for what would be read outside of the images."""
    if images.dtype not in (torch.uint8, np.uint8) or len(images.shape) != 4:
        raise ValueError(f"images are bytes [B, H, W, C], not {images.dtype} {images.shape}")
    batch, (count, height, width, _) = len(numbers), images.shape
    if boxes.shape != (batch, 4) or flips.shape != (batch,):
        raise ValueError(f"{batch} images, boxes {boxes.shape}, flips {flips.shape}")
    inside = (boxes[:, :2] >= 0) & (boxes[:, 2:] > 0)
    inside &= boxes[:, :2] + boxes[:, 2:] <= (height, width)
    if not inside.all() or not ((numbers >= 0) & (numbers < count)).all():
        raise ValueError(f"a box or number lies outside of {count} images of {height} x {width}")


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale `[B, C, h, w]` in [0, 255] to mean 0 and standard deviation 1 of each channel `[C]`."""
    return (images - mean[:, None, None] * 255) / (std[:, None, None] * 255)


# --- colours -------------------------------------------------------------------------------------


def random_colors(rng: np.random.Generator, batch: int, strength: float) -> NDArray[np.float32]:
    """Draw factors of brightness, contrast and saturation, `[B, 3]`, in 1 +- strength.

    As ColorJitter(strength, strength, strength) does, but always in this order. With strength 0
    all are 1; whoever has no use for colours leaves `recolor` out.
    """
    least = max(0.0, 1 - strength)
    return rng.uniform(least, 1 + strength, size=(batch, 3)).astype(np.float32)


def recolor(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of each image, and stay in [0, 255].

    Args:
        images: `[B, C, h, w]` float32 in [0, 255]. Three channels are red, green and blue; of
            others the saturation is left alone, and grey is the mean of all channels.
        factors: `[B, 3]`, see `random_colors`.

    Returns:
        `[B, C, h, w]` float32.
    """
    brightness, contrast, saturation = factors.to(images)[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 255)
    middle = _grey(images).mean(dim=(2, 3), keepdim=True)
    images = torch.lerp(middle, images, contrast).clamp(0, 255)
    if images.shape[1] != len(LUMA):
        return images
    return torch.lerp(_grey(images), images, saturation).clamp(0, 255)


def _grey(images: Tensor) -> Tensor:
    """Return the luminance, `[B, 1, h, w]`."""
    if images.shape[1] != len(LUMA):
        return images.mean(dim=1, keepdim=True)
    shares = torch.tensor(LUMA, device=images.device)[:, None, None]
    return (images * shares).sum(dim=1, keepdim=True)
