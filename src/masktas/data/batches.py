"""Batches by step: the images and their augmentation depend on the seed and the step only."""

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
from masktas.data.mix import Mixed
from masktas.data.randaugment import RandAugment
from masktas.data.store.image_store import Images
from masktas.errors import DataError
from masktas.seeding import seed_for


@dataclass(frozen=True, slots=True)
class Augment:
    """Augmentation of training images, drawn per image.

    Attributes:
        crop_scale: smallest and largest fraction of the area of a random crop.
        flip: whether to flip left to right at random.
        color: maximum change of brightness, contrast and saturation; 0 for none.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    color: float = 0.0
    randaugment: RandAugment | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5


@dataclass(frozen=True, slots=True)
class Drawn:
    """Random choices of a batch: images `[B]`, crops `[B, 4]`, flips `[B]`, colors `[B, 3]`."""

    indices: NDArray[np.int64]
    boxes: NDArray[np.int64]
    flips: NDArray[np.bool_] | None
    colors: NDArray[np.float32] | None

    def rows(self, rows: slice) -> Drawn:
        """Return the choices for some of the images."""
        return Drawn(
            self.indices[rows],
            self.boxes[rows],
            None if self.flips is None else self.flips[rows],
            None if self.colors is None else self.colors[rows],
        )


class Batches:
    """The images of a split as normalized batches on a device.

    Args:
        images: the split.
        image_size: (height, width) of network inputs.
        mean, std: of each channel.
        batch_size: images of a training batch; an epoch drops the last incomplete batch.
        seed: of order, crops, flips and colors.
        device: of the batches.
        augment: augmentation of training batches.

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
        """Number of complete batches of an epoch."""
        return len(self.images) // self.batch_size

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the indices in the split of the images of a step, `[B]`."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            rng = np.random.default_rng(seed_for(self.seed, "order", epoch))
            self._order = (epoch, rng.permutation(len(self.images)))
        return self._order[1][at * self.batch_size : (at + 1) * self.batch_size]

    def draw(self, step: int) -> Drawn:
        """Draw images, crops, flips and colors for the whole batch of a step."""
        indices = self.indices(step)
        rng = np.random.default_rng(seed_for(self.seed, "crops", step))
        count = len(indices)
        boxes = random_boxes(rng, count, self._stored, self.augment.crop_scale)
        flips = rng.uniform(size=count) < 0.5 if self.augment.flip else None
        strength = self.augment.color
        colors = random_colors(rng, count, strength) if strength else None
        return Drawn(indices, boxes, flips, colors)

    def train(self, step: int, rows: slice = slice(None)) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the augmented batch of a step, `[B, C, H, W]`, and the indices of its images.

        With `rows`, only these rows of it. The random choices are made for the whole batch, so they
        do not depend on how it is divided among processes.
        """
        drawn = self.draw(step).rows(rows)
        if self._ahead is None:
            pixels = self.images.read(drawn.indices)
        else:
            following = self.indices(step + 1)[rows]
            self.indices(step)  # restore the order of this epoch if the next step begins another
            pixels = self._ahead.read(drawn.indices, following)
        return self._cut(pixels, drawn), drawn.indices

    def mixed(self, step: int, rows: slice = slice(None)) -> Mixed:
        """Return the batch of a step, unmixed."""
        pixels, numbers = self.train(step, rows)
        return Mixed(pixels, numbers, numbers, np.ones(len(numbers), dtype=np.float32))

    def plain(self, indices: NDArray[np.int64]) -> Tensor:
        """Return center crops of images by their indices, without augmentation, `[B, C, H, W]`."""
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
    """Decodes the images of the next step in a thread while the current step is computed."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next: tuple[bytes, Future[NDArray[np.uint8]]] | None = None

    def read(self, indices: NDArray[np.int64], following: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images `[B, H, W, C]` and start to read the following ones."""
        if self._next is not None and self._next[0] == indices.tobytes():
            pixels = self._next[1].result()
        else:
            pixels = self._images.read(indices)
        self._next = (following.tobytes(), self._thread.submit(self._images.read, following))
        return pixels


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; copies to a GPU are asynchronous."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
