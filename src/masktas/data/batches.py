"""Batches by step number: which images, cut how, hang on the seed and the step alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.augment import center_boxes, crop, random_boxes
from masktas.data.store import Images
from masktas.errors import DataError
from masktas.seeding import seed_for


class Batches:
    """The images of a split as normalised batches on a device.

    Args:
        images: the split.
        image_size: side of what networks see.
        mean, std: of each channel.
        batch_size: images of a training batch; an epoch leaves out what does not fill one.
        seed: names order, crops and flips.
        device: where batches are made.
        crop_scale: least and most share of the area that a random crop keeps.
        flip: whether to mirror at random.

    Raises:
        DataError: if there are fewer images than one batch.
    """

    def __init__(
        self,
        images: Images,
        *,
        image_size: int,
        mean: list[float],
        std: list[float],
        batch_size: int,
        seed: int,
        device: torch.device,
        crop_scale: tuple[float, float],
        flip: bool,
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
        self.crop_scale = crop_scale
        self.flip = flip
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

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

    def train(self, step: int, rows: slice = slice(None)) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the batch of a step, randomly cut, `[B, C, H, W]`, and which images it holds.

        `rows` of it, if that is what this process computes: drawn with the whole batch, they are
        the same images and crops however the batch is divided.
        """
        indices = self.indices(step)
        rng = np.random.default_rng(seed_for(self.seed, "crops", step))
        boxes = random_boxes(rng, len(indices), self._stored, self.crop_scale)
        flips = rng.uniform(size=len(indices)) < 0.5 if self.flip else None
        flips = None if flips is None else flips[rows]
        return self._cut(indices[rows], boxes[rows], flips), indices[rows]

    def plain(self, indices: NDArray[np.int64]) -> Tensor:
        """Return images by number, the middle of each, without any randomness, `[B, C, H, W]`."""
        boxes = center_boxes(len(indices), self._stored, (self.image_size, self.image_size))
        return self._cut(indices, boxes, None)

    @property
    def _stored(self) -> tuple[int, int]:
        height, width = self.images.pixels.shape[1:3]
        return height, width

    def _cut(
        self,
        indices: NDArray[np.int64],
        boxes: NDArray[np.int64],
        flips: NDArray[np.bool_] | None,
    ) -> Tensor:
        size = (self.image_size, self.image_size)
        mean, std = self._scale
        if self.device.type == "cpu":  # read where they lie
            return crop(
                self.images.pixels, boxes, flips, size,
                numbers=self.images.rows[indices], mean=mean, std=std,
            )  # fmt: skip
        return crop(
            to_device(torch.from_numpy(self.images.read(indices)), self.device),
            to_device(torch.from_numpy(boxes), self.device),
            None if flips is None else to_device(torch.from_numpy(flips), self.device),
            size,
            mean=mean,
            std=std,
        )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to a device; the host does not wait for a GPU to have taken it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
