"""Batches by step number: which images, cut how, hang on the seed and the step alone."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.augment import (
    center_boxes,
    crop,
    random_boxes,
    random_colors,
)
from masktas.data.store.image_store import Images
from masktas.errors import DataError
from masktas.seeding import seed_for


@dataclass(frozen=True, slots=True)
class Augment:
    """How images of a training batch are varied, each by itself.

    Attributes:
        crop_scale: least and most share of the area that a random crop keeps.
        flip: whether to mirror at random, left to right.
        color: most that brightness, contrast and saturation are changed by; 0 leaves them.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    color: float = 0.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """What of a batch was drawn at random: images `[B]`, crops `[B, 4]`, flips, colours."""

    indices: NDArray[np.int64]
    boxes: NDArray[np.int64]
    flips: NDArray[np.bool_] | None
    colors: NDArray[np.float32] | None

    def rows(self, rows: slice) -> Drawn:
        """Return what was drawn for some of the images."""
        return Drawn(
            self.indices[rows],
            self.boxes[rows],
            None if self.flips is None else self.flips[rows],
            None if self.colors is None else self.colors[rows],
        )


class Batches:
    """The images of a split as normalised batches on a device.

    Args:
        images: the split.
        image_size: (height, width) of what networks see.
        mean, std: of each channel.
        batch_size: images of a training batch; an epoch leaves out what does not fill one.
        seed: names order, crops, flips and colours.
        device: where batches are made.
        augment: how training batches are varied.

    Raises:
        DataError: if there are fewer images than one batch.
    """

    def __init__(
        self,
        images: Images,
        *,
        image_size: tuple[int, int],
        mean: list[float],
        std: list[float],
        batch_size: int,
        seed: int,
        device: torch.device,
        augment: Augment,
    ) -> None:
        if len(images) < batch_size:
            raise DataError(
                f"The {images.split} split has {len(images)} images, fewer than one batch of "
                f"{batch_size}: choose a smaller --batch-size, or give more images."
            )
        self.images = images
        self.image_size = image_size
        self.mean, self.std = mean, std
        self._scale = [torch.tensor(values, device=device) for values in (mean, std)]
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.augment = augment
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))
        self._ahead = ReadAhead(images) if images.is_slow else None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch."""
        return len(self.images) // self.batch_size

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return which images of the split make up the batch of a step, `[B]`."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            rng = np.random.default_rng(seed_for(self.seed, "order", epoch))
            self._order = (epoch, rng.permutation(len(self.images)))
        return self._order[1][at * self.batch_size : (at + 1) * self.batch_size]

    def draw(self, step: int) -> Drawn:
        """Draw images, crops, flips and colours of a step, for its whole batch."""
        indices = self.indices(step)
        rng = np.random.default_rng(seed_for(self.seed, "crops", step))
        count = len(indices)
        boxes = random_boxes(rng, count, self._stored, self.augment.crop_scale)
        flips = rng.uniform(size=count) < 0.5 if self.augment.flip else None
        strength = self.augment.color
        colors = random_colors(rng, count, strength) if strength else None
        return Drawn(indices, boxes, flips, colors)

    def train(self, step: int, rows: slice = slice(None)) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the batch of a step, randomly cut, `[B, C, H, W]`, and which images it holds.

        `rows` of it, if that is what this process computes: drawn with the whole batch, they are
        the same images and crops however the batch is divided.
        """
        drawn = self.draw(step).rows(rows)
        if self._ahead is None:
            pixels = self.images.read(drawn.indices)
        else:
            following = self.indices(step + 1)[rows]
            self.indices(step)  # the order of this epoch again, where the next step begins one
            pixels = self._ahead.read(drawn.indices, following)
        return self._cut(pixels, drawn), drawn.indices

    def plain(self, indices: NDArray[np.int64]) -> Tensor:
        """Return images by number, the middle of each, without any randomness, `[B, C, H, W]`."""
        boxes = center_boxes(len(indices), self._stored, self.image_size)
        return self._cut(self.images.read(indices), Drawn(indices, boxes, None, None))

    @property
    def _stored(self) -> tuple[int, int]:
        height, width, _ = self.images.stored.shape
        return height, width

    def _cut(self, pixels: NDArray[np.uint8], drawn: Drawn) -> Tensor:
        mean, std = self._scale
        images, boxes, flips, colors = (
            None if one is None else to_device(torch.from_numpy(one), self.device)
            for one in (pixels, drawn.boxes, drawn.flips, drawn.colors)
        )
        assert images is not None
        assert boxes is not None
        return crop(images, boxes, flips, self.image_size, colors=colors, mean=mean, std=std)


class ReadAhead:
    """Reads the images of the next step while this one is computed, where they are decoded."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: tuple[bytes, Future[NDArray[np.uint8]]] | None = None

    def read(self, indices: NDArray[np.int64], following: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]`, and begin to read those that will be asked for next."""
        if self._next is not None and self._next[0] == indices.tobytes():
            pixels = self._next[1].result()
        else:
            pixels = self._images.read(indices)
        self._next = (following.tobytes(), self._thread.submit(self._images.read, following))
        return pixels


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to a device; the host does not wait for a GPU to have taken it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
