"""Probe by fine-tuning: accuracy as `masktas finetune` would reach it, by the run's own recipe.

Shapes: n test images, S seeds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from masktas.config import FinetuneSettings
from masktas.console import Console
from masktas.data.batches import Batches
from masktas.errors import MasktasError
from masktas.formats import counted, format_seconds
from masktas.nn.supernet import Supernet
from masktas.nn.vit import ViT
from masktas.space import Architecture, macs
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import Setup, classifier_task, loop_config
from masktas.stages.validate.labelled_images import LabelledImages
from masktas.stages.validate.probes import Bools, CropBatches, Numbers
from masktas.train.log import Ledger
from masktas.train.loop import Environment, Training
from masktas.train.metrics import EVALUATION_BATCH
from masktas.train.ranks import ALONE
from masktas.train.step import train_step
from masktas.train.tasks.classify import Classification

TIMED_STEPS = 3


class FinetuneProbe:
    """`Probe`: trains every subnet with labels, each seed by the same recipe, by one process.

    The first seed is that of the stage, so that with all images its network is the one that
    `masktas finetune` has after its last epoch; the others are the numbers after it. No best epoch
    is chosen and training never ends early: the images that would decide are the test. A training
    that is interrupted is resumed from its last checkpoint.

    Args:
        context: of the stage.
        images: labelled images.
        recipe: settings of the training.
        classes: number of classes.
        folder: of checkpoints, until a network is finished.
    """

    is_resumable = True

    def __init__(
        self,
        context: Context,
        images: LabelledImages,
        recipe: FinetuneSettings,
        *,
        classes: int,
        folder: Path,
    ) -> None:
        self.images, self.recipe, self.classes = images, recipe, classes
        self.num_parts = images.seeds * recipe.epochs
        self._context, self._folder = context, folder
        self._tested = CropBatches(
            context.batches_of(images.tested, images.store),
            np.arange(images.num_test),
            EVALUATION_BATCH,
        )
        self._steps = recipe.epochs * self._batches(0).steps_per_epoch

    @property
    def num_seen(self) -> int:
        """Images that a network classifies, over all seeds."""
        return self.images.seeds * self.images.num_test

    @property
    def num_trained(self) -> int:
        """Images that a network is trained on, over all epochs and seeds."""
        return self.images.seeds * self._steps * self.recipe.batch_size

    def about(self, shared: Supernet, networks: Sequence[Architecture]) -> str:
        """Return a sentence: the recipe, and the time of all networks from that of a few steps."""
        recipe, ranks = self.recipe, self._context.ranks
        weights = "inherited" if recipe.init == "inherit" else "random"
        middle = sorted(networks, key=macs)[len(networks) // 2]
        share = sum(macs(one) for one in networks) / macs(middle) / ranks.size
        seconds = self._seconds_per_step(shared, middle) * self._steps * self.images.seeds * share
        return (
            f"Accuracy by recipe {recipe.recipe} of {len(networks)} networks: fine-tuned from "
            f"{weights} weights on {self.images.num_learnt:,} images, "
            f"{counted(recipe.epochs, 'epoch')} in batches of {recipe.batch_size}, "
            f"learning rate {recipe.lr:g} for 256 images, "
            f"{counted(self.images.seeds, 'seed')}; this takes about {format_seconds(seconds)}."
        )

    def correct(
        self,
        shared: Supernet,
        architecture: Architecture,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Bools:
        """Train the subnet; return for every seed which test images it gets right, `[S, n]`.

        Raises:
            Stopped: if the user asked for it; a checkpoint has been written.
            MasktasError: if weights or losses are not finite.
        """
        predicted = []
        for number in range(self.images.seeds):
            done = number * self.recipe.epochs

            def watch(epoch: int, done: int = done) -> dict[str, float]:
                progress(done + epoch)
                return {}

            network = self._train(shared, architecture, number, watch)
            predicted.append(self._classify(network.eval()))
        return np.asarray(np.stack(predicted) == self.images.truth)

    def forget(self, architecture: Architecture) -> None:
        """Remove the checkpoints of a network."""
        shutil.rmtree(self._folder / architecture.digest(), ignore_errors=True)
        with suppress(OSError):  # not empty, or another process has removed it
            self._folder.rmdir()

    def _train(
        self,
        shared: Supernet,
        architecture: Architecture,
        number: int,
        watch: Callable[[int], dict[str, float]],
    ) -> ViT:
        context = self._context
        batches = self._batches(number)
        network, task = self._task(shared, architecture, number, batches)
        loop = loop_config("fine-tuning of the probe", self.recipe, batches, context.settings)
        folder = self._folder / architecture.digest() / f"seed-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        quiet = Console(quiet=True)  # the stage shows one bar for all networks
        environment = Environment(context.runtime, ALONE, context.stopping, quiet, Ledger(folder))
        Training(
            task, replace(loop, tensorboard=False), folder, environment, after_epoch=watch
        ).run()
        return network

    def _task(
        self, shared: Supernet, architecture: Architecture, number: int, batches: Batches
    ) -> tuple[ViT, Classification]:
        recipe, images = self.recipe, self.images
        network, task = classifier_task(
            recipe,
            architecture.replace(num_classes=self.classes, pool=recipe.pool),
            shared.extract(architecture) if recipe.init == "inherit" else None,
            batches,
            torch.from_numpy(images.target[images.drawn[number]]),
            Setup(self._context.seed + number, self._context.runtime, ALONE),
        )
        _require_finite(network)
        return network, task

    def _batches(self, number: int) -> Batches:
        images = self.images
        return self._context.batches_of(
            images.of_seed(number),
            images.store,
            settings=self.recipe,
            seed=self._context.seed + number,
        )

    def _seconds_per_step(self, shared: Supernet, architecture: Architecture) -> float:
        """Measure a few steps of a training that is then dropped."""
        _, task = self._task(shared, architecture, 0, self._batches(0))
        train_step(task, 0, ALONE)
        began = time.monotonic()
        for step in range(1, 1 + TIMED_STEPS):
            norm = train_step(task, step, ALONE)["grad_norm"]
        norm.item()  # the device has finished
        return (time.monotonic() - began) / TIMED_STEPS

    @torch.no_grad()
    def _classify(self, network: ViT) -> Numbers:
        """Return the class of each test image, `[n]`."""
        parts = []
        for images in self._tested:
            with self._context.runtime.autocast():
                parts.append(network(images).float())
        found: Numbers = torch.cat(parts).argmax(dim=1).cpu().numpy()
        return found


def _require_finite(network: nn.Module) -> None:
    """Raise MasktasError unless all weights are finite."""
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise MasktasError(
            "A network's weights are not finite numbers: train the supernet again, with a lower "
            "--lr."
        )
