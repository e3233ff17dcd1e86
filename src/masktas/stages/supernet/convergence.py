"""Watch a supernet converge: fixed networks of it on fixed held-out images and masks.

SPEC 5, claim iii; MaskTAS, Figure 4: does the supernet converge, and for large networks too? A
supernet that labels train is watched on the same networks and images (`supervised`), and both by
the same linear accuracy, so that their curves can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.batches import Batches
from masktas.errors import LabelError
from masktas.nn.mae import pixel_losses
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.student import feature_loss
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import Teacher
from masktas.ratings.label_free import PatchSimilarity, consistency
from masktas.ratings.labelled import Accuracy
from masktas.seeding import seed_for
from masktas.space import Architecture, SearchSpace, macs, params
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime

NUM_RANDOM = 8
MEASURES = ("pixel_loss", "feature_loss", "rating")
ACCURACY = "accuracy"  # of a linear classifier of frozen features
AT_ONCE = 128
CLEARLY = 2.0  # standard errors


def probe_epochs(epochs: int, times: int) -> set[int]:
    """Return the epochs after which networks are measured: evenly spaced, the last included."""
    return {max(1, round(number * epochs / times)) for number in range(1, times + 1)}


def probe_networks(space: SearchSpace, seed: int) -> dict[str, Architecture]:
    """Return the networks to measure: smallest, middle, largest and 8 random ones."""
    rng = random.Random(seed_for(seed, "probes"))
    chosen = {"smallest": space.smallest, "middle": space.middle, "largest": space.largest}
    drawn = {f"random-{number}": space.sample(rng) for number in range(1, NUM_RANDOM + 1)}
    return chosen | drawn


def linear_accuracy(features: Tensor, labels: Tensor) -> Tensor:
    """Return 1 for each image that a linear classifier of frozen features gets right, `[n]`.

    It is fitted on each half of the images and evaluated on the other (`Accuracy`).

    Args:
        features: `[n, D]`.
        labels: `[n]`, classes.
    """
    return Accuracy(labels).per_image(features)


def mean_of_patches(tokens: Tensor) -> Tensor:
    """Return the features `[B, D]` of tokens `[B, 1 + N, D]`: the mean over the patches."""
    return tokens[:, 1:].float().mean(dim=1)


class Probes:
    """Fixed networks of a supernet in training, measured on a fixed sample of held-out images.

    Args:
        space: of the supernet.
        batches: held-out images.
        count: largest number of images.
        seed: draws networks and images.
        ranks: the processes that share the networks.
        labels: `[n]`, the classes of all images of `batches`; None if they are not used.

    Raises:
        LabelError: if a linear classifier has no image to learn from.
    """

    measures: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        space: SearchSpace,
        batches: Batches,
        *,
        count: int,
        seed: int,
        ranks: Ranks,
        labels: Tensor | None,
    ) -> None:
        self.networks = probe_networks(space, seed)
        self._batches, self._ranks = batches, ranks
        # a sample: sources list images class by class
        rng = np.random.default_rng(seed_for(seed, "probes", "images"))
        self._chosen = rng.permutation(len(batches.images))[:count]
        self._count = len(self._chosen)
        self._labels = None if labels is None else labels[self._chosen]
        if labels is not None and self._count < 2:
            raise LabelError(
                "The accuracy of probes is that of a linear classifier, fitted on one half of the "
                "validation images and tested on the other, and there are fewer than 2: give more "
                "by --validation-share or --probe-images, or switch probes off by --probes 0."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The measures, in the order of `_measure_one`."""
        return self.measures if self._labels is None else (*self.measures, ACCURACY)

    def measure(self, epoch: int) -> dict[str, float]:
        """Return `probe/NETWORK/MEASURE` of every network."""
        table = torch.zeros(len(self.networks), len(self.names), self._count, dtype=torch.float64)
        for index in self._ranks.mine(range(len(self.networks))):
            table[index] = self._measure_one(list(self.networks.values())[index])
        self._ranks.sum(table)
        self._compare(epoch, dict(zip(self.networks, table[:, 0], strict=True)))
        means = table.mean(dim=2).tolist()
        return {
            f"probe/{name}/{measure}": value
            for name, row in zip(self.networks, means, strict=True)
            for measure, value in zip(self.names, row, strict=True)
        }

    def describe(self) -> dict[str, Any]:
        """Return the networks, for manifests."""
        return {
            name: {"params": params(one), "macs": macs(one), "architecture": one.to_dict()}
            for name, one in self.networks.items()
        }

    def _measure_one(self, architecture: Architecture) -> Tensor:
        """Return the measures of each image, `[measures, n]`, on the CPU."""
        raise NotImplementedError

    def _compare(self, epoch: int, first: dict[str, Tensor]) -> None:
        """Compare networks by the first measure of each image, `[n]`; by default not at all."""

    def _parts(self) -> list[NDArray[np.int64]]:
        """Return the numbers of the images, as many at once as are measured together."""
        return np.split(np.arange(self._count), range(AT_ONCE, self._count, AT_ONCE))


class ConvergenceProbes(Probes):
    """Measures what masked distillation learns: its losses and the rating.

    Args:
        supernet: in training.
        teacher: frozen.
        batches: held-out images.
        visible: V, visible units of an image.
        count: largest number of images.
        relation: how the rating compares patches.
        seed: draws networks and masks.
        runtime: device and precision.
        ranks: the processes that share the networks.
        warn: called when the largest network falls behind the middle one.
        labels: `[n]`, the classes of all images of `batches`, to measure linear accuracy too.
    """

    measures = MEASURES

    def __init__(
        self,
        supernet: Supernet,
        teacher: Teacher,
        batches: Batches,
        *,
        visible: int,
        count: int,
        relation: PatchSimilarity,
        seed: int,
        runtime: Runtime,
        ranks: Ranks,
        warn: Callable[[str], None],
        labels: Tensor | None = None,
    ) -> None:
        super().__init__(
            supernet.space, batches, count=count, seed=seed, ranks=ranks, labels=labels
        )
        self._supernet, self._teacher, self._relation = supernet, teacher, relation
        self._visible, self._seed = visible, seed
        self._runtime, self._warn = runtime, warn

    @torch.no_grad()
    def _measure_one(self, architecture: Architecture) -> Tensor:
        student = self._supernet.subnet(architecture).eval()
        measured, whole = [], []
        for images, ids_keep, ids_masked in self._inputs():
            units = patchify(images, student.units.size)
            with self._runtime.autocast():
                target = self._teacher(images, ids_keep)
                tokens = student.encode(take(units, ids_keep), ids_keep)
                predicted = student.reconstruct(tokens, ids_keep, ids_masked)
                projected = student.project(tokens)
            features = [feature_loss(*pair) for pair in zip(projected, target, strict=True)]
            relation = self._relation.log_map(student.of_units(tokens))
            rating = consistency(self._relation.map(target), relation)
            pixels = pixel_losses(predicted, units, ids_masked)
            measured.append(torch.stack([pixels, torch.stack(features), rating]).double())
            if self._labels is not None:
                patches = patchify(images, student.patch_size)
                with self._runtime.autocast():
                    whole.append(mean_of_patches(student.encoder.forward_features(patches)))
        found = torch.cat(measured, dim=1)
        if self._labels is not None:
            accuracy = linear_accuracy(torch.cat(whole), self._labels)
            found = torch.cat([found, accuracy[None]])
        return found.cpu()

    def _inputs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield `images [B, C, H, W]`, `ids_keep [B, V]`, `ids_masked [B, M]`, always the same."""
        total = self._supernet.units.total
        noise = masking_noise(self._count, total, seed_for(self._seed, "probes", "mask"))
        for rows in self._parts():
            images = self._batches.plain(self._chosen[rows])
            yield images, *random_masking(noise[rows].to(images.device), self._visible)

    def _compare(self, epoch: int, first: dict[str, Tensor]) -> None:
        """Warn if the largest network predicts pixels clearly worse than the middle one."""
        if self._count < 2:
            return  # the standard error of one image is unknown
        behind = first["largest"] - first["middle"]
        error = behind.std() / len(behind) ** 0.5
        if behind.mean() > CLEARLY * error:
            self._warn(
                f"Epoch {epoch}: the largest network predicts pixels worse than the middle one "
                f"(loss {first['largest'].mean():.4f} against "
                f"{first['middle'].mean():.4f}): it lags behind. --sampler sandwich trains it "
                "in every step; more epochs or a lower --lr may help too."
            )
