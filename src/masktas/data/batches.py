"""Batches by step: the images and their augmentation depend on the seed and the step only."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.augment import (
    center_boxes,
    crop,
    random_boxes,
    random_colors,
    to_device,
)
from masktas.data.erasing import Erasures, erase, random_erasures
from masktas.data.mix import Mixed, Mixing, mix, random_mixing
from masktas.data.randaugment import CHANNELS, Operations, RandAugment
from masktas.data.store.image_store import Images
from masktas.errors import DataError
from masktas.seeding import seed_for


@dataclass(frozen=True, slots=True)
class Augment:
    """Augmentation of training images, drawn per image (how to mix: per batch), in this order.

    Attributes:
        crop_scale: smallest and largest fraction of the area of a random crop.
        flip: whether to flip left to right at random.
        randaugment: how operations on the cropped image, rounded to bytes, are drawn.
        color: maximum change of brightness, contrast and saturation; 0 for none.
        erasing: probability of filling a box of the normalized image with noise.
        mixup, cutmix: alpha of the share of an image in a mixture (`Batches.mixed`); 0 for none.
        mix_probability: of mixing a batch, if `mixup` or `cutmix` is on.
        mix_switch: probability of CutMix, if both are on.
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
    """Random choices of a batch: images `[B]`, crops `[B, 4]`, flips `[B]`, colors `[B, 2, 3]`."""

    indices: NDArray[np.int64]
    boxes: NDArray[np.int64]
    flips: NDArray[np.bool_] | None = None
    colors: NDArray[np.float32] | None = None
    operations: Operations | None = None
    erasures: Erasures | None = None

    def rows(self, rows: slice | NDArray[np.int64]) -> Drawn:
        """Return the choices for some of the images."""
        return Drawn(
            self.indices[rows],
            self.boxes[rows],
            None if self.flips is None else self.flips[rows],
            None if self.colors is None else self.colors[rows],
            None if self.operations is None else self.operations.rows(rows),
            None if self.erasures is None else self.erasures.rows(rows),
        )


class Batches:
    """The images of a split as normalized batches on a device.

    Args:
        images: the split.
        image_size: (height, width) of network inputs.
        mean, std: of each channel.
        batch_size: images of a training batch; an epoch drops the last incomplete batch.
        seed: of order and augmentation.
        device: of the batches.
        augment: augmentation of training batches.

    Raises:
        DataError: if there are fewer images than one batch, or RandAugment is on and they have
            neither 1 nor 3 channels.
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
        channels = images.stored.shape[2]
        if augment.randaugment is not None and channels not in CHANNELS:
            raise DataError(
                f"RandAugment is defined for images of 1 or 3 channels, and those of the "
                f"{images.split} split have {channels}: switch it off, or choose another number "
                "of channels."
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
        """Draw images and their augmentation, except mixing, for the whole batch of a step."""
        indices = self.indices(step)
        rng = np.random.default_rng(seed_for(self.seed, "crops", step))
        count = len(indices)
        boxes = random_boxes(rng, count, self._stored, self.augment.crop_scale)
        flips = rng.uniform(size=count) < 0.5 if self.augment.flip else None
        strength = self.augment.color
        colors = random_colors(rng, count, strength) if strength else None
        drawn = Drawn(indices, boxes, flips, colors)
        if self.augment.randaugment is not None:
            rng = np.random.default_rng(seed_for(self.seed, "randaugment", step))
            drawn = replace(drawn, operations=self.augment.randaugment.draw(rng, count))
        if self.augment.erasing:
            rng = np.random.default_rng(seed_for(self.seed, "erasing", step))
            erasures = random_erasures(rng, count, self.image_size, self.augment.erasing)
            drawn = replace(drawn, erasures=erasures)
        return drawn

    def mixing(self, step: int) -> Mixing | None:
        """Draw how the images of a step are mixed by `mixed`; None if they are not."""
        chosen = self.augment
        if not (chosen.mixup or chosen.cutmix):
            return None
        return random_mixing(
            np.random.default_rng(seed_for(self.seed, "mix", step)),
            self.image_size,
            mixup=chosen.mixup,
            cutmix=chosen.cutmix,
            probability=chosen.mix_probability,
            switch=chosen.mix_switch,
        )

    def train(self, step: int, rows: slice = slice(None)) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the augmented batch of a step, `[B, C, H, W]`, and the indices of its images.

        With `rows`, only these rows of it. The random choices are made for the whole batch, so they
        do not depend on how it is divided among processes.
        """
        return self._load(step, rows, rows)

    def mixed(self, step: int, rows: slice = slice(None)) -> Mixed:
        """Return the augmented batch of a step, or some rows of it, by mixup or CutMix if on.

        Partners that are not among the rows are read and augmented too.
        """
        own = np.arange(self.batch_size)[rows]
        needed = self._with_partners(step, own)
        pixels, _ = self._load(step, needed, self._with_partners(step + 1, own))
        numbers, mixing = self.indices(step), self.mixing(step)
        if mixing is None:
            return Mixed(pixels, numbers[own], numbers[own], np.ones(len(own), dtype=np.float32))
        partners = self.batch_size - 1 - own
        at, others_at = (np.searchsorted(needed, one) for one in (own, partners))
        share = np.full(len(own), mixing.share, dtype=np.float32)
        return Mixed(mix(pixels, at, others_at, mixing), numbers[own], numbers[partners], share)

    def plain(self, indices: NDArray[np.int64]) -> Tensor:
        """Return center crops of images by their indices, without augmentation, `[B, C, H, W]`."""
        boxes = center_boxes(len(indices), self._stored, self.image_size)
        return self._cut(self.images.read(indices), Drawn(indices, boxes))

    @property
    def _stored(self) -> tuple[int, int]:
        height, width, _ = self.images.stored.shape
        return height, width

    def _with_partners(self, step: int, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows, ascending, that are read to make the rows `own` of `mixed`."""
        if self.mixing(step) is None:
            return own
        return np.union1d(own, self.batch_size - 1 - own)

    def _load(
        self,
        step: int,
        rows: slice | NDArray[np.int64],
        following: slice | NDArray[np.int64],
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Return rows of a step and the indices of its images; `following`: of the next step."""
        drawn = self.draw(step).rows(rows)
        if self._ahead is None:
            pixels = self.images.read(drawn.indices)
        else:
            upcoming = self.indices(step + 1)[following]
            self.indices(step)  # restore the order of this epoch if the next step begins another
            pixels = self._ahead.read(drawn.indices, upcoming)
        return self._cut(pixels, drawn), drawn.indices

    def _operated(self, pixels: NDArray[np.uint8], drawn: Drawn) -> tuple[NDArray[np.uint8], Drawn]:
        """Crop and apply RandAugment on the CPU; return bytes and the remaining choices."""
        assert self.augment.randaugment is not None
        assert drawn.operations is not None
        cut = crop(pixels, drawn.boxes, drawn.flips, self.image_size)
        images = np.ascontiguousarray(cut.round_().byte().permute(0, 2, 3, 1).numpy())
        fill = tuple(min(255, round(255 * mean)) for mean in self.mean)
        self.augment.randaugment.apply(images, drawn.operations, fill)
        whole = center_boxes(len(images), self.image_size, self.image_size)
        return images, replace(drawn, boxes=whole, flips=None, operations=None)

    def _cut(self, pixels: NDArray[np.uint8], drawn: Drawn) -> Tensor:
        if drawn.operations is not None:
            pixels, drawn = self._operated(pixels, drawn)
        mean, std = self._scale
        images, boxes, flips, colors = (
            None if one is None else to_device(torch.from_numpy(one), self.device)
            for one in (pixels, drawn.boxes, drawn.flips, drawn.colors)
        )
        assert images is not None
        assert boxes is not None
        cut = crop(images, boxes, flips, self.image_size, colors=colors, mean=mean, std=std)
        if drawn.erasures is not None:
            erase(cut, drawn.erasures)
        return cut


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
