"""Probes with labels: the accuracy of a supernet's subnets on test images.

Three probes, from cheap to expensive: nearest neighbours of frozen features, a linear classifier
on frozen features, and a short fine-tuning. Shapes: n test images, m labelled images, S seeds,
D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.config import FinetuneSettings
from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, ImageStore
from masktas.errors import LabelError, MasktasError, require_extra
from masktas.nn.patches import patchify
from masktas.nn.supernet import Supernet
from masktas.nn.vit import ViT
from masktas.seeding import seed_for
from masktas.space import Architecture
from masktas.stages.common.images import labels_of
from masktas.stages.common.tasks import Setup, augment, classifier_task
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

NEIGHBOURS = 20
RIDGE = 1e-3  # L2 penalty of the linear probe, relative to its mean loss
ITERATIONS = 1000
KEPT = 2**30  # bytes of cropped images that are kept in memory for the next networks

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ProbeRecipe:
    """Settings of a probe.

    Attributes:
        probe: `linear`, `knn` or `finetune`.
        images: labelled images that the probe is trained on.
        epochs: of fine-tuning.
        seeds: number of repetitions, each with other images in another order.
        batch_size: of encoding.
    """

    probe: str
    images: int
    epochs: int
    seeds: int
    batch_size: int


class NetworkProbe:
    """Probes the subnets of a supernet, all with the same images.

    Args:
        recipe: settings of the probe.
        store: the images, opened for `supernet` and for the split `test`.
        labels: of every image, see `read_labels`.
        classes: number of classes.
        test: the split whose images are classified.
        seed: of the random draws.
        runtime: device and precision.
    """

    def __init__(
        self,
        recipe: ProbeRecipe,
        store: ImageStore,
        labels: list[list[int]],
        *,
        classes: int,
        test: str,
        seed: int,
        runtime: Runtime,
    ) -> None:
        self.recipe, self.classes = recipe, classes
        self._store, self._seed, self._runtime = store, seed, runtime
        self._learnt, self._tested = store.images("supernet"), store.images(test)
        self._target = labels_of(labels, self._learnt).numpy()
        self._truth = labels_of(labels, self._tested).numpy()
        self._drawn = [self._draw(number) for number in range(recipe.seeds)]

    @property
    def num_test(self) -> int:
        """Test images, n."""
        return len(self._tested)

    @property
    def num_learnt(self) -> int:
        """Labelled images of one probe, m."""
        return len(self._drawn[0])

    @property
    def num_seen(self) -> int:
        """Images that a network encodes for its features, over all seeds."""
        return len(self._union) + self.num_test

    def correct(self, shared: Supernet, architecture: Architecture) -> Bools:
        """Return for every seed which test images a subnet classifies right, `[S, n]`."""
        if self.recipe.probe == "finetune":
            seeds = range(self.recipe.seeds)
            predicted = [self._finetuned(shared, architecture, number) for number in seeds]
        else:
            predicted = self._probed(shared.encoder(architecture).eval())
        return np.asarray(np.stack(predicted) == self._truth)

    def _draw(self, number: int) -> Numbers:
        """Draw the labelled images of a seed, ascending."""
        rng = np.random.default_rng(seed_for(self._seed, "probe", number))
        order = rng.permutation(len(self._learnt))
        drawn = np.sort(order[: self.recipe.images])
        if len(np.unique(self._target[drawn])) < 2:
            raise LabelError(
                f"The {len(drawn)} labelled images that the probe learns from are of one class: "
                "choose more --probe-images, or another --seed."
            )
        return drawn

    @cached_property
    def _union(self) -> Numbers:
        return np.unique(np.concatenate(self._drawn))

    @cached_property
    def _pools(self) -> tuple[CropBatches, CropBatches]:
        """The labelled images of all seeds, and the test images, cropped."""
        learnt = CropBatches(self._batches(self._learnt), self._union, self.recipe.batch_size)
        tested = np.arange(self.num_test)
        return learnt, CropBatches(self._batches(self._tested), tested, self.recipe.batch_size)

    def _probed(self, encoder: ViT) -> list[Numbers]:
        """Classify the test images from frozen features, encoded once for all seeds."""
        known, asked = (self._features(encoder, pool) for pool in self._pools)
        classify = nearest if self.recipe.probe == "knn" else linear
        found = []
        for drawn in self._drawn:
            rows = np.searchsorted(self._union, drawn)
            found.append(classify(known[rows], self._target[drawn], asked))
        return found

    @torch.no_grad()
    def _features(self, encoder: ViT, pool: CropBatches) -> Floats:
        """Return the mean of each image's patches after the last norm, `[., D]`."""
        parts = []
        for images in pool:
            with self._runtime.autocast():
                tokens = encoder.forward_features(patchify(images, encoder.architecture.patch_size))
            parts.append(tokens[:, 1:].float().mean(dim=1))
        features: Floats = torch.cat(parts).cpu().numpy()
        if not np.isfinite(features).all():
            raise MasktasError(
                "A network's features are not finite numbers: train the supernet again, with a "
                "lower --lr."
            )
        return features

    def _finetuned(self, shared: Supernet, architecture: Architecture, number: int) -> Numbers:
        """Train a copy of the subnet with labels and classify the test images."""
        drawn, seed = self._drawn[number], seed_for(self._seed, "probe", number)
        settings = FinetuneSettings(
            epochs=self.recipe.epochs, batch_size=min(256, len(drawn)), drop_path=0.0
        )
        some = Images(self._learnt.stored, self._learnt.rows[drawn], self._learnt.split)
        batches = self._batches(some, settings, seed)
        network, task = classifier_task(
            settings,
            architecture.replace(num_classes=self.classes, pool=settings.pool),
            shared.extract(architecture),
            batches,
            torch.from_numpy(self._target[drawn]),
            Setup(seed, self._runtime, ALONE),
        )
        for step in range(settings.epochs * batches.steps_per_epoch):
            train_step(task, step, ALONE, clip_grad=1.0)
        return self._classified(network.eval())

    @torch.no_grad()
    def _classified(self, network: ViT) -> Numbers:
        parts = []
        for images in self._pools[1]:
            with self._runtime.autocast():
                parts.append(network(images).float())
        logits = torch.cat(parts)
        if not bool(logits.isfinite().all()):
            raise MasktasError(
                "Fine-tuning gave numbers that are not finite: choose --probe linear, or train "
                "the supernet again with a lower --lr."
            )
        found: Numbers = logits.argmax(dim=1).cpu().numpy()
        return found

    def _batches(
        self, images: Images, settings: FinetuneSettings | None = None, seed: int = 0
    ) -> Batches:
        return Batches(
            images,
            image_size=self._store.image_size,
            mean=self._store.mean,
            std=self._store.std,
            batch_size=settings.batch_size if settings else 1,
            seed=seed,
            device=self._runtime.device,
            augment=augment(settings) if settings else Augment(),
        )


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
    return require_extra(f"sklearn.{part}", "validate", "A probe with labels")


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
    """Classify by the vote of the 20 nearest neighbours in cosine distance; see `linear`."""
    kind = sklearn("neighbors").KNeighborsClassifier
    model = kind(min(NEIGHBOURS, len(target)), metric="cosine", algorithm="brute")
    found: Numbers = model.fit(known, target).predict(asked)
    return found
