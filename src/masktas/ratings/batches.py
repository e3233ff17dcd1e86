"""The images and masks that every candidate is rated on, their batch sizes, and what rating costs.

Shapes: n images under k masks each are r = n k rows; V visible units, M masked ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masktas.config import RatingSettings
from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError
from masktas.nn.patches import masking_noise, num_visible_checked, random_masking
from masktas.nn.teachers.teacher import Teacher
from masktas.nn.units import Units
from masktas.ratings.prefix_cache import prefix_order
from masktas.seeding import seed_for
from masktas.space import Architecture, cost
from masktas.strategies import racing

FUSED = ("consistency", "reconstruction")
BY_SIZE = {"params": cost.params, "macs": cost.macs}
LABELLED = ("accuracy", "knn")
CROP_CHUNK = 256  # images that are cropped at once
# Bytes of a batch's widest activation: what a processor's cache holds, what keeps a GPU busy.
ACTIVATION_BYTES = {"cpu": 32e6, "cuda": 512e6}


@dataclass(frozen=True, slots=True)
class RatingBatch:
    """Images that every candidate is rated on, and their masks.

    Attributes:
        images: `[r, C, H, W]`.
        ids_keep: `[r, V]`, indices of the visible units.
        ids_masked: `[r, M]`, indices of the others.
        unit: side of a unit.
    """

    images: Tensor
    ids_keep: Tensor
    ids_masked: Tensor
    unit: int


class RatingBatches:
    """The images of the split `search` that candidates are rated on, drawn and masked by the seed.

    Iterating yields a `RatingBatch` for each batch; nothing is kept. The k masks of an image are
    neighbouring rows.

    Args:
        store: the images.
        largest: the largest architecture of the space.
        units: what masks are made of.
        settings: number of images and masks, mask ratio and batch size.
        parts: the measured ratings; see `measured_parts`.
        seed: determines images, their order and masks.
        device: where batches are made.
        raced: whether a race rates the first images alone; if not, batches may be larger.
        say: prints a message.

    Attributes:
        num_images, num_masks, num_visible: n, k and V.
        ends: numbers of images after which a race compares candidates; the last is all.
        sizes: images of each batch.
        chosen: indices of the images within the split, in random order.

    Raises:
        ConfigError: if the settings contradict each other.
    """

    def __init__(
        self,
        store: ImageStore,
        largest: Architecture,
        units: Units,
        settings: RatingSettings,
        parts: Sequence[str],
        *,
        seed: int,
        device: torch.device,
        raced: bool,
        say: Callable[[str], None],
    ) -> None:
        self._store, self._units, self._parts = store, units, parts
        self._seed, self._device = seed, device
        self.labelled = bool(parts) and set(parts) <= set(LABELLED)  # whole images, no masks
        if set(parts) & set(LABELLED) and not self.labelled:
            raise ConfigError(
                "Ratings with labels need whole images and the others masked ones: they cannot be "
                "made in one pass."
            )
        available = len(store.images("search"))
        self.num_images = min(settings.num_images, available) if parts else 1
        if parts and available < settings.num_images:
            say(
                f"The search split has {available} images: rating on all of them "
                f"(--num-images asks for {settings.num_images})."
            )
        if self.labelled and self.num_images < 2:
            raise ConfigError(
                f"--rating {parts[0]} classifies each image by the others and needs at least 2: "
                "raise --num-images, or give the search split more images."
            )
        self.num_masks = settings.num_masks if parts and not self.labelled else 1
        self.num_visible = num_visible_for(units.total, settings, parts)
        self.ends = racing.rungs(self.num_images) if raced else [self.num_images]
        visible = units.num_patches(self.num_visible, largest.patch_size)
        size = settings.batch_size or batch_size_for(largest, visible, device.type)
        self.sizes = _batch_sizes(self.ends, max(1, size // self.num_masks))
        rng = np.random.default_rng(seed_for(seed, "rating"))
        self.chosen = rng.permutation(available)[: self.num_images]

    def __iter__(self) -> Iterator[RatingBatch]:
        """Yield the batches in order."""
        masks = self.num_masks
        batches = Batches(
            self._store.images("search"),
            image_size=self._store.image_size,
            mean=self._store.mean,
            std=self._store.std,
            batch_size=1,
            seed=self._seed,
            device=self._device,
            augment=Augment(),
        )
        noise = masking_noise(
            self.num_images * masks,
            self._units.total,
            seed_for(self._seed, "rating", "mask"),
        )
        ids_keep, ids_masked = random_masking(noise.to(self._device), self.num_visible)
        for first, last in itertools.pairwise(itertools.accumulate(self.sizes, initial=0)):
            rows = slice(first * masks, last * masks)
            chunks = np.split(self.chosen[first:last], range(CROP_CHUNK, last - first, CROP_CHUNK))
            images = torch.cat([batches.plain(chunk) for chunk in chunks])
            images = images.repeat_interleave(masks, dim=0)
            yield RatingBatch(images, ids_keep[rows], ids_masked[rows], self._units.size)

    def macs(self, architecture: Architecture) -> int:
        """Count the multiply-accumulates of rating on one image: encoding and similarities (16)."""
        if not self._parts:
            return 0
        encoder = self.encoder_macs(architecture)
        return self.num_masks * (encoder + self.num_visible**2 * architecture.embed_dim)

    def encoder_macs(self, architecture: Architecture) -> int:
        """Count the multiply-accumulates of encoding the visible units of one image."""
        visible = self._units.num_patches(self.num_visible, architecture.patch_size)
        return cost.encoder_macs(architecture, visible)

    def macs_shared(self, rated: Sequence[tuple[Architecture, int]]) -> float:
        """Count the multiply-accumulates of rating networks that share their first blocks.

        Args:
            rated: networks with the number of images each was rated on; a block that several have
                in common is counted once.
        """
        unshared = sum(self.macs(architecture) * images for architecture, images in rated)
        blocks = sum(architecture.depth * images for architecture, images in rated)
        prefixes: dict[Hashable, int] = {}
        for architecture, images in rated:
            *stem, genes = prefix_order(architecture)
            for length in range(1, architecture.depth + 1):
                prefix = (*stem, genes[:length])
                prefixes[prefix] = max(images, prefixes.get(prefix, 0))
        return unshared * sum(prefixes.values()) / blocks if blocks else 0.0

    def teacher_macs(self, teacher: Teacher | None) -> int:
        """Count the multiply-accumulates of the teacher's part on one image."""
        if teacher is None or not self._parts or self.labelled:
            return 0
        similarities = self.num_visible**2 * teacher.embed_dim
        return self.num_masks * (teacher.macs(self.num_visible) + similarities)


def measured_parts(names: Sequence[str]) -> tuple[str, ...]:
    """Return the ratings that these ratings are computed from: none for size alone."""
    parts = [part for name in names for part in (FUSED if name == "fusion" else (name,))]
    return tuple(dict.fromkeys(part for part in parts if part not in BY_SIZE))


def num_visible_for(total: int, settings: RatingSettings, parts: Sequence[str]) -> int:
    """Return the number of visible units V, of `total`, that candidates encode.

    Raises:
        ConfigError: if they are too few to compare, or none is masked to reconstruct.
    """
    ratio = settings.ratio_for(total)
    if ratio == 0 or set(parts) <= set(LABELLED):
        if "reconstruction" in parts:
            raise ConfigError(
                "mask_ratio 0 leaves nothing to reconstruct: choose --rating consistency, or a "
                "mask_ratio above 0."
            )
        return total
    # a unit is compared with at least two others
    return num_visible_checked(total, ratio, least=3)


def batch_size_for(largest: Architecture, num_visible: int, device: str) -> int:
    """Return a batch size whose widest activation suits the device, between 16 and 4096 images."""
    row = 4 * (num_visible + 1) * max(*largest.mlp_dim, largest.embed_dim)
    return max(16, min(4096, int(ACTIVATION_BYTES[device] / row)))


def _batch_sizes(ends: Sequence[int], size: int) -> list[int]:
    """Divide the images into batches of at most `size`, none of which crosses one of `ends`."""
    return [
        min(size, last - start)
        for first, last in itertools.pairwise([0, *ends])
        for start in range(first, last, size)
    ]
