"""images + labels -> supernet/: weight sharing by labels, AutoFormer's way (SPEC 9).

The supervised twin of masked distillation: the same store, sampler and exact freeze, but the loss
is the cross-entropy of whole images, and no teacher is read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.config import DataSettings, SupernetSettings
from masktas.data.batches import Batches
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError
from masktas.measure.budget import costed
from masktas.nn.patches import patchify
from masktas.nn.supervised import SupervisedSupernet
from masktas.space import Architecture, SearchSpace
from masktas.stages.common.images import Data, ImageInput, labels_of, two_classes
from masktas.stages.common.load import save_supernet
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import supervised_task
from masktas.stages.supernet.compiling import compile_all
from masktas.stages.supernet.convergence import (
    Probes,
    linear_accuracy,
    mean_of_patches,
    probe_epochs,
)
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime


def train_supervised(
    context: Context,
    settings: SupernetSettings,
    space: SearchSpace,
    data: Data | None,
    data_settings: DataSettings | None,
) -> dict[str, Any]:
    """Train the supernet of a space with labels; return the manifest.

    Raises:
        LabelError: if the images have no labels, or are all of one class.
        MasktasError: as `supernet`.
    """
    images = _images(context, space, data, data_settings)
    images.require_fit(space.largest, f"space {space.name}")
    context.fetch(images)
    labels, classes = two_classes(images)
    store = context.open_images(images, allowed=("supernet", "validation"))
    batches = context.batches(store, "supernet", settings=settings)
    candidates, _, models = costed(
        context.run,
        settings.check(space),
        settings,
        latency=False,
        measure=None,
        seed=context.seed,
        console=context.console,
        first=context.ranks.first,
    )
    with context.stage(
        context.run.supernet,
        settings,
        parents=models,
        images=images,
        store=store,
        more={"space": space.to_dict(), "classes": classes},
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        target = labels_of(labels, batches.images)
        shared, task = supervised_task(
            settings, space, len(classes), target, batches, context.setup, candidates
        )
        watched = probe_epochs(settings.epochs, settings.probes)
        probes = _probes(context, settings, shared, store, labels) if watched else None
        all_units = shared.units.total
        compile_all(
            context, shared, settings, lambda size: 1 + shared.units.num_patches(all_units, size)
        )
        cost = stage.train(
            task,
            settings,
            batches,
            after_epoch=lambda epoch: probes.measure(epoch) if probes and epoch in watched else {},
        )

        def write() -> dict[str, Any]:
            save_supernet(stage.folder, shared)
            about = probes.describe() if probes else {}
            return {"classes": classes, "probes": about, "reconstructions": []}

        return stage.finish(store, cost, write)


def _images(
    context: Context, space: SearchSpace, data: Data | None, data_settings: DataSettings | None
) -> ImageInput:
    """Return the images of the run's teacher, if it has one, or else those given."""
    teacher = context.run.teacher
    if context.ranks.first(lambda: teacher.finished):
        return context.images_recorded(teacher, data, data_settings)
    if data is None:
        raise ConfigError(
            f"{context.run.folder} has no images yet: with --supervised, give DATA, images with "
            "labels."
        )
    return context.images_given(
        data, data_settings, image_size=space.image_size, in_channels=space.in_channels
    )


class SupervisedProbes(Probes):
    """Measures what labels teach: cross-entropy and accuracy by the shared head, linear accuracy.

    Args:
        supernet: in training.
        batches: held-out images.
        labels: `[n]`, their classes.
        count: largest number of images.
        seed: draws the networks.
        runtime: device and precision.
        ranks: the processes that share the networks.
    """

    measures = ("cross_entropy", "top1")

    def __init__(
        self,
        supernet: SupervisedSupernet,
        batches: Batches,
        labels: Tensor,
        *,
        count: int,
        seed: int,
        runtime: Runtime,
        ranks: Ranks,
    ) -> None:
        super().__init__(
            supernet.space, batches, count=count, seed=seed, ranks=ranks, labels=labels
        )
        self._supernet, self._runtime = supernet, runtime
        self._classes = labels[self._chosen]

    @torch.no_grad()
    def _measure_one(self, architecture: Architecture) -> Tensor:
        network = self._supernet.subnet(architecture).eval()
        all_logits, features = [], []
        for rows in self._parts():
            patches = patchify(self._batches.plain(self._chosen[rows]), network.patch_size)
            with self._runtime.autocast():
                tokens = network.encoder.forward_features(patches)
                all_logits.append(network.classify(tokens).float())
            features.append(mean_of_patches(tokens))
        logits, classes = torch.cat(all_logits), self._classes.to(all_logits[0].device)
        right = (logits.argmax(dim=1) == classes).double()
        loss = F.cross_entropy(logits, classes, reduction="none").double()
        accuracy = linear_accuracy(torch.cat(features), self._classes)
        return torch.stack([loss, right, accuracy]).cpu()


def _probes(
    context: Context,
    settings: SupernetSettings,
    shared: SupervisedSupernet,
    store: ImageStore,
    labels: list[list[int]],
) -> SupervisedProbes:
    held_out = context.batches(store, "validation")
    return SupervisedProbes(
        shared,
        held_out,
        labels_of(labels, held_out.images),
        count=settings.probe_images,
        seed=context.seed,
        runtime=context.runtime,
        ranks=context.ranks,
    )
