"""Training crops of images with their masks: both are scaled, cut and flipped alike.

Source: the augmentation that published results on ADE20K use (BEiT, MAE): random scale, a crop of
which no class takes too much, a flip, a change of colours.
Shapes: B images, C channels, H x W pixels of an image, h x w of a crop, A attempts.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.augment import crop, random_colors, to_device
from masktas.data.masks import IGNORED
from masktas.data.segmentation import THREADS
from masktas.errors import DataError
from masktas.seeding import seed_for

ATTEMPTS = 10  # places drawn for a crop; the first without a class of too large a share is taken
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class JointAugment:
    """How images and masks are augmented together.

    Attributes:
        crop_size: (height, width) of what the network sees.
        scale: smallest and largest factor that an image is scaled by.
        short_side: shorter side of an image before that, in pixels; None leaves it as it is.
        max_class_share: largest share of a crop's labelled pixels that one class may take, if
            another place can be found.
        flip: whether crops are mirrored at random.
        color: see `random_colors`.
    """

    crop_size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    short_side: int | None = None
    max_class_share: float = 0.75
    flip: bool = True
    color: float = 0.0

    def draw(self, rng: np.random.Generator, batch: int) -> JointDraws:
        """Draw for each image of a batch."""
        return JointDraws(
            rng.uniform(*self.scale, size=batch),
            rng.uniform(size=(batch, ATTEMPTS, 2)),
            (rng.uniform(size=batch) < 0.5) & self.flip,
            random_colors(rng, batch, self.color),
        )

    def cut(
        self,
        pixels: NDArray[np.uint8],
        mask: NDArray[np.int16],
        drawn: JointDraws,
        index: int,
        mean: Tensor,
        std: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Cut a crop out of an image `[H, W, C]` and its mask `[H, W]`.

        Images are interpolated, masks take the nearest pixel. What lies beyond the image is 0
        after normalisation, and ignored.

        Returns:
            Normalised pixels `[C, h, w]`, and class indices `[h, w]`.
        """
        factor = float(drawn.scales[index]) * self._resize(mask.shape)
        lengths, shape = self._lengths(mask.shape, factor)
        box = self._place(mask, lengths, drawn.places[index])
        flipped = bool(drawn.flips[index])
        inside = crop(
            pixels[None],
            np.array([box]),
            np.array([flipped]),
            shape,
            colors=drawn.colors[index : index + 1] if self.color else None,
            mean=mean,
            std=std,
        )[0]
        labels = nearest(mask, box, shape, flipped=flipped)
        height, width = self.crop_size
        padded = torch.zeros(inside.shape[0], height, width)
        padded[:, : shape[0], : shape[1]] = inside
        target = torch.full((height, width), IGNORED, dtype=torch.long)
        target[: shape[0], : shape[1]] = torch.from_numpy(labels.astype(np.int64))
        return padded, target

    def _resize(self, size: tuple[int, ...]) -> float:
        return 1.0 if self.short_side is None else self.short_side / min(size[:2])

    def _lengths(
        self, size: tuple[int, ...], factor: float
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return height and width of the box in the image, and of what it is scaled to."""
        lengths, shape = [], []
        for whole, wanted in zip(size[:2], self.crop_size, strict=True):
            length = max(1, round(wanted / factor))
            lengths.append(min(length, whole))
            shape.append(wanted if length <= whole else min(wanted, max(1, round(whole * factor))))
        return (lengths[0], lengths[1]), (shape[0], shape[1])

    def _place(
        self, mask: NDArray[np.int16], lengths: tuple[int, int], places: NDArray[np.float64]
    ) -> Box:
        """Return the first place at which no class takes too much, or the last one."""
        height, width = lengths
        box = (0, 0, height, width)
        for at in places:
            room = np.subtract(mask.shape, lengths) + 1
            top, left = (at * room).astype(int).tolist()
            box = (top, left, height, width)
            labels = mask[top : top + height, left : left + width]
            counts = np.bincount(labels[labels >= 0])
            if counts.size and counts.max() <= self.max_class_share * counts.sum():
                break
        return box


@dataclass(frozen=True, slots=True)
class JointDraws:
    """Random choices for each image of a batch.

    Attributes:
        scales: `[B]`.
        places: `[B, A, 2]`, of the crop in the room that it has, in [0, 1).
        flips: `[B]`.
        colors: `[B, 2, 3]`.
    """

    scales: NDArray[np.float64]
    places: NDArray[np.float64]
    flips: NDArray[np.bool_]
    colors: NDArray[np.float32]


def nearest(
    mask: NDArray[np.int16], box: Box, size: tuple[int, int], *, flipped: bool = False
) -> NDArray[np.int16]:
    """Cut a box (top, left, height, width) out of a mask and scale it to `size` by the nearest."""
    top, left, height, width = box
    rows = top + ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
    columns = left + ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
    found: NDArray[np.int16] = mask[np.ix_(rows, columns[::-1] if flipped else columns)]
    return found


class PairedImages(Protocol):
    """Images with masks, such as `SegmentationImages`; reading is thread-safe.

    Attributes:
        mean, std: of each channel, in [0, 1].
    """

    mean: list[float]
    std: list[float]

    def rows(self, *names: str) -> NDArray[np.int64]:
        """Return the numbers of the images of some splits."""
        ...

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return an image, `[H, W, C]`."""
        ...

    def mask(self, row: int) -> NDArray[np.int16]:
        """Return its class indices, `[H, W]`."""
        ...


class JointBatches:
    """Batches of crops of images with their masks, as `Batches` are of images alone.

    Args:
        images: the images.
        splits: which of them are used.
        augment: how they are augmented.
        batch_size: images of a step; an epoch drops the last incomplete batch.
        seed: of order and augmentation.
        device: of the batches.

    Raises:
        DataError: if there are fewer images than one batch.
    """

    def __init__(
        self,
        images: PairedImages,
        *splits: str,
        augment: JointAugment,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._rows = images.rows(*splits)
        if len(self._rows) < batch_size:
            raise DataError(
                f"There are {len(self._rows)} labelled images to train on, fewer than one batch of "
                f"{batch_size}: choose a smaller --batch-size, or give more images."
            )
        self.images, self.augment = images, augment
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self._mean, self._std = torch.tensor(images.mean), torch.tensor(images.std)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="crops")
        self._ahead: dict[tuple[int, int], list[Future[tuple[Tensor, Tensor]]]] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Number of complete batches of an epoch."""
        return len(self._rows) // self.batch_size

    def train(self, step: int, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return rows of the batch of a step: pixels `[B, C, h, w]`, class indices `[B, h, w]`.

        The random choices are made for the whole batch, by seed and step. The same rows of the next
        step are prepared meanwhile.
        """
        first, last, _ = rows.indices(self.batch_size)
        futures = self._ahead.pop((step, first), None) or self._start(step, first, last)
        found = [future.result() for future in futures]
        self._ahead[step + 1, first] = self._start(step + 1, first, last)
        pixels, target = (torch.stack(list(one)) for one in zip(*found, strict=True))
        return to_device(pixels, self.device), to_device(target, self.device)

    def _start(self, step: int, first: int, last: int) -> list[Future[tuple[Tensor, Tensor]]]:
        epoch, at = divmod(step, self.steps_per_epoch)
        rng = np.random.default_rng(seed_for(self.seed, "order", epoch))
        start = at * self.batch_size
        numbers = rng.permutation(self._rows)[start : start + self.batch_size]
        rng = np.random.default_rng(seed_for(self.seed, "joint", step))
        drawn = self.augment.draw(rng, self.batch_size)

        def one(index: int) -> tuple[Tensor, Tensor]:
            row = int(numbers[index])
            return self.augment.cut(
                self.images.image(row), self.images.mask(row), drawn, index, self._mean, self._std
            )

        return [self._threads.submit(one, index) for index in range(first, last)]
