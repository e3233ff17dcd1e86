"""Watch a supernet converge: fixed networks of it on fixed held-out images and masks.

SPEC 5, claim iii; MaskTAS, Figure 4: does the supernet converge, and for large networks too?
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masktas.data.batches import Batches
from masktas.nn.mae import pixel_losses
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.student import feature_loss
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import Teacher
from masktas.ratings.label_free import PatchSimilarity, consistency
from masktas.seeding import seed_for
from masktas.space import Architecture, SearchSpace, macs, params
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime

NUM_RANDOM = 8
MEASURES = ("pixel_loss", "feature_loss", "rating")
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


class ConvergenceProbes:
    """Fixed networks, images and masks that a supernet in training is measured on.

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
    """

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
    ) -> None:
        self.networks = probe_networks(supernet.space, seed)
        self._supernet, self._teacher, self._relation = supernet, teacher, relation
        self._batches, self._visible, self._seed = batches, visible, seed
        self._count = min(count, len(batches.images))
        self._runtime, self._ranks, self._warn = runtime, ranks, warn

    def measure(self, epoch: int) -> dict[str, float]:
        """Return `probe/NETWORK/MEASURE` of every network."""
        table = torch.zeros(len(self.networks), len(MEASURES), self._count, dtype=torch.float64)
        for index in self._ranks.mine(range(len(self.networks))):
            table[index] = self._measure_one(list(self.networks.values())[index])
        self._ranks.sum(table)
        self._compare(epoch, dict(zip(self.networks, table[:, 0], strict=True)))
        means = table.mean(dim=2).tolist()
        return {
            f"probe/{name}/{measure}": value
            for name, row in zip(self.networks, means, strict=True)
            for measure, value in zip(MEASURES, row, strict=True)
        }

    def describe(self) -> dict[str, Any]:
        """Return the networks, for manifests."""
        return {
            name: {"params": params(one), "macs": macs(one), "architecture": one.to_dict()}
            for name, one in self.networks.items()
        }

    @torch.no_grad()
    def _measure_one(self, architecture: Architecture) -> Tensor:
        """Return the measures of each image, `[3, n]`, on the CPU."""
        student = self._supernet.subnet(architecture).eval()
        measured = []
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
        return torch.cat(measured, dim=1).cpu()

    def _inputs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield `images [B, C, H, W]`, `ids_keep [B, V]`, `ids_masked [B, M]`, always the same."""
        total = self._supernet.units.total
        noise = masking_noise(self._count, total, seed_for(self._seed, "probes", "mask"))
        for rows in np.split(np.arange(self._count), range(AT_ONCE, self._count, AT_ONCE)):
            images = self._batches.plain(rows)
            yield images, *random_masking(noise[rows].to(images.device), self._visible)

    def _compare(self, epoch: int, pixel_loss: dict[str, Tensor]) -> None:
        """Warn if the largest network predicts clearly worse than the middle one."""
        if self._count < 2:
            return  # the standard error of one image is unknown
        behind = pixel_loss["largest"] - pixel_loss["middle"]
        error = behind.std() / len(behind) ** 0.5
        if behind.mean() > CLEARLY * error:
            self._warn(
                f"Epoch {epoch}: the largest network predicts pixels worse than the middle one "
                f"(loss {pixel_loss['largest'].mean():.4f} against "
                f"{pixel_loss['middle'].mean():.4f}): it lags behind. --sampler sandwich trains it "
                "in every step; more epochs or a lower --lr may help too."
            )
