"""Ratings without labels of many networks at once, image by image.

Shapes: n networks, m images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.batches import Batches
from masktas.nn.distill import Teacher, feature_loss
from masktas.nn.mae import pixel_losses
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.rating import Relation, consistency
from masktas.nn.supernet import Supernet
from masktas.seeding import seed_for
from masktas.space import Architecture
from masktas.stages.build import Setup
from masktas.stages.probing import Cut

Ratings = dict[str, NDArray[np.float64]]


class Raters(Protocol):
    """Ratings without labels."""

    @property
    def num_images(self) -> int:
        """Images that a network is rated on."""
        ...

    def rate_all(self, architectures: Sequence[Architecture]) -> Ratings:
        """Return each rating by name, of every network on every image: `[n, m]`, higher better.

        Every process of a job calls it with the same networks.
        """
        ...


class DistilledRatings:
    """Consistency (15), pixel loss (10) and feature loss (11) of each image, as ratings.

    Images, masks and the teacher's tokens are the same for every network.

    Args:
        shared: the supernet, on its device.
        teacher: frozen.
        batches: images held out.
        num_images: to rate on, at most.
        visible: V, patches of an image that are seen.
        batch_size: images encoded at once.
        setup: the seed that names images and masks, the device, the processes.
    """

    def __init__(
        self,
        shared: Supernet,
        teacher: Teacher,
        batches: Batches,
        *,
        num_images: int,
        visible: int,
        batch_size: int,
        setup: Setup,
    ) -> None:
        self._shared, self._setup, self._relation = shared, setup, Relation()
        self.num_images = min(num_images, len(batches.images))
        rng = np.random.default_rng(seed_for(setup.seed, "rating"))
        chosen = np.sort(rng.permutation(len(batches.images))[: self.num_images])
        self._images = Cut(batches, chosen, batch_size)
        noise = masking_noise(
            self.num_images,
            shared.space.largest.num_patches,
            seed_for(setup.seed, "rating", "mask"),
        )
        self._ids = [
            random_masking(part.to(setup.runtime.device), visible)
            for part in noise.split(batch_size)
        ]
        with setup.runtime.autocast():
            self._targets = [
                teacher(images, keep).float()
                for images, (keep, _) in zip(self._images, self._ids, strict=True)
            ]

    def rate_all(self, architectures: Sequence[Architecture]) -> Ratings:
        """Return the ratings of every network on every image; see `Raters`."""
        ranks = self._setup.ranks
        values = torch.zeros(3, len(architectures), self.num_images, dtype=torch.float64)
        for at in ranks.mine(range(len(architectures))):
            values[:, at] = self._look(architectures[at])
        ranks.sum(values)
        names = ("consistency", "reconstruction", "feature")
        return {name: of_rating.numpy() for name, of_rating in zip(names, values, strict=True)}

    @torch.no_grad()
    def _look(self, architecture: Architecture) -> Tensor:
        """Return the three ratings of each image, `[3, m]`."""
        student = self._shared.subnet(architecture).eval()
        looked = []
        for images, (keep, masked), target in zip(
            self._images, self._ids, self._targets, strict=True
        ):
            patches = patchify(images, architecture.patch_size)
            with self._setup.runtime.autocast():
                tokens = student.encoder.forward_features(take(patches, keep), keep)
                predicted = student.decoder(tokens, keep, masked)
                projected = student.projection(tokens[:, 1:])
            related = self._relation.log_map(tokens[:, 1:])
            features = [feature_loss(*pair) for pair in zip(projected, target, strict=True)]
            agreed = consistency(self._relation.map(target), related)
            pixels = pixel_losses(predicted, patches, masked)
            looked.append(torch.stack([agreed, -pixels, -torch.stack(features)]).double())
        return torch.cat(looked, dim=1).cpu()
