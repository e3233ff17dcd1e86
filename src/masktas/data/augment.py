"""Random crops, flips and color jitter, drawn per image and applied on the device in float32.

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
TRIES = 10  # of a crop, as torchvision
LUMA = (
    0.299,
    0.587,
    0.114,
)  # ITU-R 601 weights of red, green, blue, as in Pillow


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; copies to a GPU are asynchronous."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


# --- crops ---------------------------------------------------------------------------------------


def random_boxes(
    rng: np.random.Generator, batch: int, size: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.int64]:
    """Draw crops `[B, 4]` (top, left, height, width) as RandomResizedCrop does, in whole pixels.

    Area and aspect ratio are drawn again while a side is longer than the image's; what does not fit
    after `TRIES` draws is the whole image.

    Args:
        rng: source of randomness.
        batch: B.
        size: (H, W) of the stored images. Aspect ratios of crops are relative to H / W.
        scale: smallest and largest fraction of the area.
    """
    share = rng.uniform(*scale, size=(TRIES, batch))
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), size=(TRIES, batch)))
    shares = np.stack([np.sqrt(share / aspect), np.sqrt(share * aspect)], axis=2)
    whole = np.array(size)
    drawn = np.rint(whole * shares).clip(min=1).astype(np.int64)
    fits = (drawn <= whole).all(axis=2)
    first = drawn[fits.argmax(axis=0), np.arange(batch)]
    lengths = np.where(fits.any(axis=0)[:, None], first, whole)
    starts = (rng.uniform(size=(batch, 2)) * (whole - lengths + 1)).astype(np.int64)
    return np.concatenate([starts, lengths], axis=1)


def center_boxes(batch: int, stored: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return center crops `[B, 4]` of `size` from images of size `stored`."""
    edges = [(large - small) // 2 for large, small in zip(stored, size, strict=True)]
    return np.tile(np.array([*edges, *size], dtype=np.int64), (batch, 1))


def crop(
    images: Tensor | NDArray[np.uint8],
    boxes: Tensor | NDArray[np.int64],
    flips: Tensor | NDArray[np.bool_] | None,
    size: tuple[int, int],
    *,
    colors: Tensor | NDArray[np.float32] | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """Crop, resize and flip; optionally also jitter colors and normalize in the same pass.

    Args:
        images: uint8 `[B, H, W, C]`, a tensor on the device of the result, or an array (such as a
            memory-mapped file) for a result on the CPU.
        boxes: `[B, 4]` (top, left, height, width), whole pixels inside the image.
        flips: `[B]`, which images are flipped left to right; None: none.
        size: (h, w).
        colors: `[B, 2, 3]`, see `random_colors`; if given, `recolor` is applied.
        mean, std: of each channel `[C]`; if given, `normalize` is applied last.

    Returns:
        `[B, C, h, w]` float32 in [0, 255], or normalized.
    """
    on_device = isinstance(images, Tensor) and images.device.type != "cpu"
    if on_device or (library := native()) is None:
        cut = _in_torch(images, boxes, flips, size)
        cut = cut if colors is None else recolor(cut, torch.as_tensor(colors))
        return cut if mean is None or std is None else normalize(cut, mean, std)
    whole = np.asarray(boxes).astype(np.int64)
    mirrored = np.zeros(len(images), np.bool_) if flips is None else np.asarray(flips)
    _check(images, whole, mirrored)
    images = images.contiguous() if isinstance(images, Tensor) else np.ascontiguousarray(images)
    gain, bias = torch.ones(images.shape[3]), torch.zeros(images.shape[3])
    if mean is not None and std is not None:
        gain, bias = 1 / (255 * std), -mean / std
    changes = None if colors is None else np.asarray(colors, dtype=np.float32)
    if changes is not None and changes.shape != (len(images), 2, 3):
        raise ValueError(f"colors have shape {changes.shape}, not ({len(images)}, 2, 3)")
    return in_c(library, images, whole, mirrored, size, changes, gain, bias)


def _in_torch(
    images: Tensor | NDArray[np.uint8],
    boxes: Tensor | NDArray[np.int64],
    flips: Tensor | NDArray[np.bool_] | None,
    size: tuple[int, int],
) -> Tensor:
    if not isinstance(images, Tensor):
        images = torch.from_numpy(np.array(images))  # a copy: the file is read-only
    if images.device.type != "cpu":
        placed = [
            None if one is None else torch.as_tensor(one, device=images.device)
            for one in (boxes, flips)
        ]
        assert placed[0] is not None
        return dense(images, placed[0], placed[1], size)
    whole = np.asarray(boxes).astype(np.int64)
    mirrored = np.zeros(len(images), np.bool_) if flips is None else np.asarray(flips)
    _check(images, whole, mirrored)
    return interpolated(images, whole, mirrored, size)


def _check(
    images: Tensor | NDArray[np.uint8],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
) -> None:
    """Raise ValueError for arguments that would read outside of the images."""
    if images.dtype not in (torch.uint8, np.uint8) or len(images.shape) != 4:
        raise ValueError(
            f"images must be bytes [B, H, W, C], not {images.dtype} {tuple(images.shape)}"
        )
    batch, height, width, _ = images.shape
    if boxes.shape != (batch, 4) or flips.shape != (batch,):
        raise ValueError(
            f"boxes {boxes.shape} and flips {flips.shape} do not fit a batch of {batch} images"
        )
    inside = (boxes[:, :2] >= 0) & (boxes[:, 2:] > 0)
    inside &= boxes[:, :2] + boxes[:, 2:] <= (height, width)
    if not inside.all():
        raise ValueError(f"a box is empty or extends beyond the image of {height} x {width} pixels")


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalize `[B, C, h, w]` in [0, 255] by `mean` and `std` of each channel `[C]` in [0, 1]."""
    return (images - mean[:, None, None] * 255) / (std[:, None, None] * 255)


# --- colors --------------------------------------------------------------------------------------


def random_colors(rng: np.random.Generator, batch: int, strength: float) -> NDArray[np.float32]:
    """Draw how brightness, contrast and saturation change, as torchvision's ColorJitter does.

    Returns:
        `[B, 2, 3]`: factors of brightness, contrast and saturation in 1 +- strength, and the order
        in which these three (0, 1, 2) are applied. With strength 0 all factors are 1.
    """
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=(batch, 3))
    order = rng.permuted(np.tile(np.arange(3), (batch, 1)), axis=1)
    return np.stack([factors, order], axis=1).astype(np.float32)


def recolor(images: Tensor, colors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of each image, clamped to [0, 255] every time.

    Args:
        images: `[B, C, h, w]` float32 in [0, 255]. Three channels are red, green and blue; with
            another number saturation is unchanged and gray is the mean of all channels.
        colors: `[B, 2, 3]`, see `random_colors`.

    Returns:
        `[B, C, h, w]` float32.
    """
    factors, order = colors.to(images).unbind(1)
    if images.shape[1] != len(LUMA):
        factors = torch.cat([factors[:, :2], torch.ones_like(factors[:, 2:])], dim=1)
    for kind in order.long().unbind(1):  # of each image, what is changed now
        factor = factors.gather(1, kind[:, None])[:, :, None, None]
        at, gray = kind[:, None, None, None], _gray(images)
        middle = torch.where(at == 1, gray.mean(dim=(2, 3), keepdim=True), gray)
        images = torch.lerp(torch.where(at == 0, 0.0, middle), images, factor).clamp(0, 255)
    return images


def _gray(images: Tensor) -> Tensor:
    """Return the luminance, `[B, 1, h, w]`."""
    if images.shape[1] != len(LUMA):
        return images.mean(dim=1, keepdim=True)
    red, green, blue = images.unbind(dim=1)  # shares as numbers: no copy to the device
    return (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2])[:, None]
