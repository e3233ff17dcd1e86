"""Probes of frozen features: the accuracy of a supernet's subnets on test images, cheaply.

A linear classifier, or the nearest neighbours. Shapes: n test images, m labelled images, S seeds,
D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.batches import Batches
from masktas.errors import MasktasError, require_extra
from masktas.nn.patches import patchify
from masktas.nn.supernet import Supernet
from masktas.nn.vit import ViT
from masktas.ratings.probes import nearest_neighbours
from masktas.space import Architecture
from masktas.stages.common.stage import Context
from masktas.stages.validate.labelled_images import LabelledImages

RIDGE = 1e-3  # L2 penalty of the linear probe, relative to its mean loss
ITERATIONS = 1000
KEPT = 2**30  # bytes of cropped images that are kept in memory for the next networks
FEW_LABELS = 5000  # images that a probe of frozen features learns from, by default

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


class Probe(Protocol):
    """Measures the accuracy of a subnet on test images.

    Attributes:
        images: labelled images.
        num_parts: parts of the work on one network that are shown as progress.
        is_resumable: whether an interrupted network is resumed where it was.
    """

    images: LabelledImages
    num_parts: int
    is_resumable: bool

    @property
    def num_seen(self) -> int:
        """Images that a network classifies or encodes for its features, over all seeds."""
        ...

    @property
    def num_trained(self) -> int:
        """Images that a network is trained on, counted as often as they are seen."""
        ...

    def about(self, shared: Supernet, networks: Sequence[Architecture]) -> str:
        """Return a sentence: how accuracy is measured, and how long that takes."""
        ...

    def correct(
        self,
        shared: Supernet,
        architecture: Architecture,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Bools:
        """Return for every seed which test images a subnet classifies right, `[S, n]`.

        Args:
            shared: the supernet.
            architecture: of the subnet.
            progress: called with the number of finished parts.
        """
        ...

    def forget(self, architecture: Architecture) -> None:
        """Remove what was kept to resume a network."""
        ...


class FeatureProbe:
    """`Probe` of frozen features, the mean of the patches after the last norm.

    Args:
        context: of the stage.
        images: labelled images.
        classify: `linear` or `nearest`.
        batch_size: of encoding.
    """

    num_parts = 1
    is_resumable = False
    num_trained = 0

    def __init__(
        self, context: Context, images: LabelledImages, classify: Classify, batch_size: int
    ) -> None:
        self.images = images
        self._context, self._classify, self._batch_size = context, classify, batch_size

    @property
    def num_seen(self) -> int:
        """Images that a network encodes for its features, over all seeds."""
        return len(self.images.union) + self.images.num_test

    def about(self, _: Supernet, networks: Sequence[Architecture]) -> str:
        """Return a sentence about the classifier."""
        return (
            f"Accuracy of {len(networks)} networks: a {self._classify.__name__} classifier of "
            f"frozen features of {self.images.num_learnt:,} images, {self.images.seeds} seeds."
        )

    def correct(
        self,
        shared: Supernet,
        architecture: Architecture,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Bools:
        """Return for every seed which test images are classified right, `[S, n]`."""
        encoder, images = shared.encoder(architecture).eval(), self.images
        known, asked = (self._features(encoder, pool) for pool in self._pools)
        predicted = []
        for drawn in images.drawn:
            rows = np.searchsorted(images.union, drawn)
            predicted.append(self._classify(known[rows], images.target[drawn], asked))
        progress(1)
        return np.asarray(np.stack(predicted) == images.truth)

    def forget(self, _: Architecture) -> None:
        """Nothing is kept."""

    @cached_property
    def _pools(self) -> tuple[CropBatches, CropBatches]:
        """The labelled images of all seeds, and the test images, cropped."""
        images = self.images
        pools = ((images.learnt, images.union), (images.tested, np.arange(images.num_test)))
        learnt, tested = (
            CropBatches(self._context.batches_of(some, images.store), numbers, self._batch_size)
            for some, numbers in pools
        )
        return learnt, tested

    @torch.no_grad()
    def _features(self, encoder: ViT, pool: CropBatches) -> Floats:
        """Return the mean of each image's patches after the last norm, `[., D]`."""
        parts = []
        for images in pool:
            with self._context.runtime.autocast():
                tokens = encoder.forward_features(patchify(images, encoder.architecture.patch_size))
            parts.append(tokens[:, 1:].float().mean(dim=1))
        features: Floats = torch.cat(parts).cpu().numpy()
        if not np.isfinite(features).all():
            raise MasktasError(
                "A network's features are not finite numbers: train the supernet again, with a "
                "lower --lr."
            )
        return features


class CropBatches:
    """Centre crops in batches, iterated many times; kept in memory if they are few enough.

    Args:
        batches: the images.
        numbers: of the images that are used.
        batch_size: of the iteration.
    """

    def __init__(self, batches: Batches, numbers: Numbers, batch_size: int) -> None:
        self._batches = batches
        self._parts = np.split(numbers, range(batch_size, len(numbers), batch_size))
        height, width = batches.image_size
        size = 4 * len(numbers) * height * width * batches.images.stored.shape[2]
        self._kept: list[Tensor] | None = [] if size <= KEPT else None

    def __iter__(self) -> Iterator[Tensor]:
        """Yield centre crops `[B, C, H, W]`."""
        if self._kept is None:
            return (self._batches.plain(part) for part in self._parts)
        if not self._kept:
            self._kept = [self._batches.plain(part) for part in self._parts]
        return iter(self._kept)


Classify = Callable[[Floats, Numbers, Floats], Numbers]


def sklearn(part: str) -> ModuleType:
    """Import a part of scikit-learn; a ConfigError says how to install it."""
    return require_extra(f"sklearn.{part}", "validate", "A classifier of frozen features")


def linear(known: Floats, target: Numbers, asked: Floats) -> Numbers:
    """Classify by multinomial logistic regression on standardised features.

    Args:
        known: features `[m, D]`.
        target: their classes `[m]`.
        asked: features `[n, D]`.

    Returns:
        Classes `[n]`.
    """
    model_of = sklearn("linear_model").LogisticRegression
    scaler = sklearn("preprocessing").StandardScaler
    ridge = 1 / (RIDGE * len(target))
    model = sklearn("pipeline").make_pipeline(scaler(), model_of(C=ridge, max_iter=ITERATIONS))
    with warnings.catch_warnings():  # a nearly converged probe compares networks as well
        warnings.simplefilter("ignore", sklearn("exceptions").ConvergenceWarning)
        model.fit(known, target)
    found: Numbers = model.predict(asked)
    return found


def nearest(known: Floats, target: Numbers, asked: Floats) -> Numbers:
    """Classify by the vote of the 20 nearest neighbours in cosine similarity; see `linear`."""
    labels = torch.from_numpy(target)
    features = (torch.from_numpy(known), labels, torch.from_numpy(asked))
    found: Numbers = nearest_neighbours(*features, int(target.max()) + 1).numpy()
    return found
