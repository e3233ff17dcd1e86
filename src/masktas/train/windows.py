"""Whole images through a segmenter: windows that slide, at several scales, mirrored.

Shapes: C channels, H x W pixels of an image, K classes, w windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.data.augment import crop
from masktas.nn.segmenter import Segmenter
from masktas.train.runtime import Runtime

WINDOWS = 16  # computed at once


@dataclass(frozen=True, slots=True)
class Views:
    """How often, and how, a segmenter sees an image.

    Attributes:
        short_side: shorter side that images are scaled to first; None leaves them as they are.
        scales: factors that images are scaled by after that, one view each.
        flip: whether each view is also seen mirrored.
        at_once: windows that are computed at once.
    """

    short_side: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    at_once: int = WINDOWS

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the (height, width) that an image has in the views of each scale."""
        first = 1.0 if self.short_side is None else self.short_side / min(size)
        return [
            (max(1, round(size[0] * first * scale)), max(1, round(size[1] * first * scale)))
            for scale in self.scales
        ]

    def windows(self, size: tuple[int, int], crop_size: tuple[int, int]) -> int:
        """Return the number of windows for an image of a size."""
        once = sum(len(_places(one, crop_size)) for one in self.sizes(size))
        return once * (2 if self.flip else 1)


@torch.no_grad()
def segment_image(
    network: Segmenter,
    pixels: Tensor,
    views: Views,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    runtime: Runtime,
) -> Tensor:
    """Segment an image at its own size.

    Logits are scaled back to the image. Of several views the probabilities are averaged, and their
    logarithm takes the place of logits.

    Args:
        network: the segmenter, in evaluation mode.
        pixels: `[H, W, C]`, bytes, on the device of the network.
        views: how the image is seen.
        mean, std: of each channel, for pixels in [0, 1].
        runtime: device and precision.

    Returns:
        Logits `[1, K, H, W]`, float32.
    """
    size = (pixels.shape[0], pixels.shape[1])
    box = torch.tensor([[0, 0, *size]], device=runtime.device)
    scale = {
        name: torch.tensor(values, device=runtime.device)
        for name, values in (("mean", mean), ("std", std))
    }
    total: Tensor | None = None
    for shape in views.sizes(size):
        prepared = crop(pixels[None], box, None, shape, **scale)
        for flipped in (False, True)[: 1 + views.flip]:
            seen = prepared.flip(3) if flipped else prepared
            logits = slide(network, seen, runtime, at_once=views.at_once)
            logits = _resized(logits.flip(3) if flipped else logits, size)
            if len(views.scales) == 1 and not views.flip:
                return logits
            total = logits.softmax(dim=1) if total is None else total + logits.softmax(dim=1)
    assert total is not None
    return (total / total.sum(dim=1, keepdim=True)).clamp_min(torch.finfo(total.dtype).tiny).log()


def slide(network: Segmenter, image: Tensor, runtime: Runtime, *, at_once: int = WINDOWS) -> Tensor:
    """Return logits `[1, K, H, W]` of an image `[1, C, H, W]`: the mean over windows.

    Windows have the size of a crop and lie two thirds of it apart; the last ones end at the edge. A
    smaller image is padded, as in training.
    """
    height, width = network.architecture.image_size
    size = image.shape[2:]
    padded = F.pad(image, (0, max(0, width - size[1]), 0, max(0, height - size[0])))
    places = _places((size[0], size[1]), (height, width))
    total: Tensor | None = None
    times = image.new_zeros(padded.shape[2:])
    for at in range(0, len(places), at_once):
        some = places[at : at + at_once]
        cuts = [padded[0, :, y : y + height, x : x + width] for y, x in some]
        with runtime.autocast():
            logits = network(torch.stack(cuts))[0].float()
        if total is None:
            total = image.new_zeros(logits.shape[1], *padded.shape[2:])
        for (y, x), one in zip(some, logits, strict=True):
            total[:, y : y + height, x : x + width] += one
            times[y : y + height, x : x + width] += 1
    assert total is not None
    return (total / times)[None, :, : size[0], : size[1]]


def _places(size: tuple[int, int], crop_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (top, left) of the windows that cover an image, which is padded to a crop's size."""
    tops, lefts = (
        window_starts(max(whole, side), side) for whole, side in zip(size, crop_size, strict=True)
    )
    return [(top, left) for top in tops for left in lefts]


def window_starts(whole: int, side: int) -> list[int]:
    """Return where windows of a side begin along a whole length, which they cover."""
    step = max(1, 2 * side // 3)  # 341 of 512 (BEiT, MAE)
    count = max(0, -(-(whole - side) // step)) + 1
    return [min(number * step, whole - side) for number in range(count)]


def _resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)
