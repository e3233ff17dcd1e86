"""Whole images through a segmenter: windows that slide, at several scales, mirrored.

Shapes: C channels, H x W pixels of an image, K classes, w windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.data.augment import crop
from masktas.nn.segmenter import Segmenter
from masktas.train.runtime import Runtime

WINDOWS = 16  # computed at once
BAND = 2**24  # logits of a band of rows: 64 MB


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


def segment_bands(
    network: Segmenter,
    pixels: Tensor,
    views: Views,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    runtime: Runtime,
    entries: int = BAND,
) -> Iterator[Tensor]:
    """Segment an image at its own size, in bands of rows from the top.

    So the memory does not grow with classes times pixels: of each view, the rows that windows still
    reach are kept. Logits are scaled back to the image. Of several views the probabilities are
    averaged, and their logarithm takes the place of logits.

    Args:
        network: the segmenter, in evaluation mode.
        pixels: `[H, W, C]`, bytes, on the device of the network.
        views: how the image is seen.
        mean, std: of each channel, for pixels in [0, 1].
        runtime: device and precision.
        entries: largest number of logits of a band, but a band has one row at least.

    Yields:
        Logits `[1, K, h, W]`, float32, of the next h rows.
    """
    size = (pixels.shape[0], pixels.shape[1])
    box = torch.tensor([[0, 0, *size]], device=runtime.device)
    scale = {
        name: torch.tensor(values, device=runtime.device)
        for name, values in (("mean", mean), ("std", std))
    }
    seen: list[tuple[SlidingRows, bool]] = []
    for shape in views.sizes(size):
        prepared = crop(pixels[None], box, None, shape, **scale)
        for flipped in (False, True)[: 1 + views.flip]:
            image = prepared.flip(3) if flipped else prepared
            seen.append((SlidingRows(network, image, runtime, views.at_once), flipped))
    rows = max(1, entries // (network.num_classes * size[1]))
    for top in range(0, size[0], rows):
        wanted = slice(top, min(top + rows, size[0]))
        yield _average([_scaled_rows(one, wanted, size, flipped) for one, flipped in seen])


def class_map(
    network: Segmenter,
    pixels: Tensor,
    views: Views,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    runtime: Runtime,
) -> Tensor:
    """Return the class of every pixel of an image, `[H, W]`, int16; see `segment_bands`."""
    bands = segment_bands(network, pixels, views, mean=mean, std=std, runtime=runtime)
    return torch.cat([one[0].argmax(dim=0).to(torch.int16) for one in bands])


class SlidingRows:
    """Logits of an image, the mean over windows; rows are asked for from the top.

    Windows have the size of a crop and lie two thirds of it apart; the last ones end at the edge. A
    smaller image is padded, as in training. Windows are computed when a row needs them, and rows
    that are not asked for any more are dropped.

    Args:
        network: the segmenter, in evaluation mode.
        image: `[1, C, H, W]`.
        runtime: device and precision.
        at_once: windows that are computed at once.

    Attributes:
        size: (H, W).
    """

    def __init__(
        self, network: Segmenter, image: Tensor, runtime: Runtime, at_once: int = WINDOWS
    ) -> None:
        self._network, self._runtime, self._at_once = network, runtime, at_once
        self.size = height, width = image.shape[2], image.shape[3]
        self._window = window = network.architecture.image_size
        self._padded = F.pad(image, (0, max(0, window[1] - width), 0, max(0, window[0] - height)))
        self._left = _places(self.size, window)  # windows that are not computed yet
        # a row of windows that fills a batch is not computed with the next: fewer rows are kept
        self._by_row = sum(top == 0 for top, _ in self._left) >= at_once
        across = self._padded.shape[3]
        self._first = 0  # the row that the next two begin with
        self._total = image.new_zeros(network.num_classes, 0, across)
        self._times = image.new_zeros(0, across)

    @torch.no_grad()
    def rows(self, first: int, last: int) -> Tensor:
        """Return the logits `[K, last - first, W]` of some rows.

        Rows before `first` are dropped and cannot be asked for later.
        """
        assert self._first <= first < last <= self.size[0]
        while self._left and self._left[0][0] < last:
            some = self._left[: self._at_once]
            if self._by_row:
                some = [one for one in some if one[0] == some[0][0]]
            self._left = self._left[len(some) :]
            self._reach(min(first, some[0][0]), some[-1][0] + self._window[0])
            self._add(some)
        part = slice(first - self._first, last - self._first)
        return (self._total[:, part] / self._times[part])[:, :, : self.size[1]]

    def _reach(self, first: int, last: int) -> None:
        """Drop rows before `first`, in place, and make room for rows up to `last`."""
        drop, self._first = first - self._first, first
        kept = self._total.shape[1] - drop
        if drop:
            for one in (*self._total, self._times):
                one[:kept] = one[drop:].clone()
                one[kept:] = 0
        if (more := last - first - self._total.shape[1]) > 0:
            self._total = F.pad(self._total, (0, 0, 0, more))
            self._times = F.pad(self._times, (0, 0, 0, more))

    def _add(self, places: Sequence[tuple[int, int]]) -> None:
        """Compute windows and add their logits."""
        height, width = self._window
        cuts = [self._padded[0, :, y : y + height, x : x + width] for y, x in places]
        with self._runtime.autocast():
            logits = self._network(torch.stack(cuts))[0].float()
        for (y, x), one in zip(places, logits, strict=True):
            down, across = slice(y - self._first, y - self._first + height), slice(x, x + width)
            self._total[:, down, across] += one
            self._times[down, across] += 1


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


def _scaled_rows(one: SlidingRows, wanted: slice, size: tuple[int, int], flipped: bool) -> Tensor:
    """Return some rows of an image of `size`, of logits at another size: `[1, K, h, W]`.

    Bilinear, as `interpolate` with `align_corners=False`, which has no way to begin at a row.
    """
    places = torch.arange(wanted.start, wanted.stop, dtype=torch.float64)
    exact = ((places + 0.5) * one.size[0] / size[0] - 0.5).clamp(0, one.size[0] - 1)
    above = exact.long()
    below = (above + 1).clamp(max=one.size[0] - 1)
    first, last = int(above[0]), int(below[-1]) + 1
    if one.size[0] == size[0]:
        last = wanted.stop
    logits = one.rows(first, last)[None]
    logits = logits.flip(3) if flipped else logits
    if one.size[1] != size[1]:
        across = (logits.shape[2], size[1])
        logits = F.interpolate(logits, across, mode="bilinear", align_corners=False)
    if one.size[0] == size[0]:
        return logits
    share = (exact - above).to(logits)[:, None]
    upper, lower = (logits[:, :, (at - first).to(logits.device)] for at in (above, below))
    return torch.lerp(upper, lower, share)


def _average(views: Sequence[Tensor]) -> Tensor:
    """Return the logits of a view, or the logarithm of the mean probabilities of several."""
    if len(views) == 1:
        return views[0]
    total = sum((one.softmax(dim=1) for one in views[1:]), start=views[0].softmax(dim=1))
    return (total / total.sum(dim=1, keepdim=True)).clamp_min(torch.finfo(total.dtype).tiny).log()
