"""One training stage, estimated by a few of its steps on noise."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from masktas.config import SegmentSettings, TrainSettings
from masktas.errors import ConfigError
from masktas.stages.plan.estimates import Device, StageEstimate
from masktas.train.ranks import ALONE
from masktas.train.step import GRAD_NORM, train_step
from masktas.train.task import Task

SAMPLED_STEPS = 200  # to average over architectures
NOISE_MEAN, NOISE_STD = 0.5, 0.25
STATE_BYTES = 16  # of a parameter: itself, gradient and two moments, float32
Trained = TrainSettings | SegmentSettings


class TrainingTrial(ABC):
    """A stage that trains, on images of noise: the same networks and steps.

    Args:
        stage: its name.
        images: how many it reads.
        accumulate: parts of each batch.

    Attributes:
        memory_images: activations are measured on this many images, and grow with the batch.
        first_images: images of the first step whose time is measured.
    """

    memory_images = 4
    first_images = 8

    def __init__(self, stage: str, images: int, accumulate: int) -> None:
        self.stage, self.images, self._accumulate = stage, images, accumulate

    @abstractmethod
    def _task(self, settings: Trained, batch_size: int) -> Task[Any]:
        """Build the stage's task on one batch of noise."""

    def _num_frozen(self) -> int:
        """Return the number of parameters of other networks that a step needs."""
        return 0

    def _training(
        self, settings: Trained, devices: int, device: Device | None, seconds: float
    ) -> StageEstimate:
        """Estimate a stage that trains."""
        steps = settings.epochs * (self.images // settings.batch_size)
        share = settings.batch_size / devices / self._accumulate
        self._require_batches(settings, devices)
        task = self._task(settings, settings.batch_size)
        macs = [task.macs(step) for step in range(min(steps, SAMPLED_STEPS))]
        flops = 2.0 * sum(macs) / len(macs)  # of an image
        if device:
            pace = device.pace(flops) * devices
        else:
            pace = self._pace(settings, max(1, int(share)), seconds) * devices
        images = steps * settings.batch_size
        trained = sum(p.numel() for p in task.module.parameters() if p.requires_grad)
        frozen = self._num_frozen()
        frozen += sum(p.numel() for p in task.module.parameters() if not p.requires_grad)
        memory = trained * STATE_BYTES + frozen * 4 + self._activations(settings) * share
        return StageEstimate(
            self.stage, images, flops * images, pace, images / pace, memory, 4.0 * trained
        )

    def _require_batches(self, settings: Trained, devices: int) -> None:
        """Raise ConfigError unless there is a batch, and a part of it for every device."""
        if self.images < settings.batch_size:
            raise ConfigError(
                f"{self.stage}: {self.images} images are fewer than one batch of "
                f"{settings.batch_size}: choose a smaller --batch-size."
            )
        accumulate = self._accumulate
        if settings.batch_size / devices / accumulate < 1:
            raise ConfigError(
                f"{self.stage}: a batch of {settings.batch_size} does not divide over {devices} "
                f"devices x {accumulate} parts."
            )

    def _pace(self, settings: Trained, batch_size: int, seconds: float) -> float:
        """Measure images per second of real steps, at the largest batch that the time allows."""
        until = time.monotonic() + seconds
        tried, pace = min(self.first_images, batch_size), 0.0
        while True:
            task = self._task(settings.model_copy(update={"batch_size": tried}), tried)
            self._step(task, 0)  # warm-up
            times = [self._step(task, 1)]
            while time.monotonic() < until and tried == batch_size:
                times.append(self._step(task, 1 + len(times)))
            pace = tried / float(np.median(times))
            left = until - time.monotonic()
            if tried == batch_size or left < 12 * times[0]:  # four times as many, and again
                return pace
            tried = min(4 * tried, batch_size)

    def _step(self, task: Task[Any], step: int) -> float:
        """Do a step and return its seconds."""
        began = time.perf_counter()
        losses = train_step(task, step, ALONE, accumulate=1)
        losses[GRAD_NORM].item()  # waits for the device
        return time.perf_counter() - began

    def _activations(self, settings: Trained) -> float:
        """Measure the bytes per image that a forward pass keeps for the backward pass.

        Two batches are compared: what does not grow with the batch, such as bfloat16 copies of
        weights, is no part of it.
        """
        few = self.memory_images
        return (self._kept(settings, 2 * few) - self._kept(settings, few)) / few

    def _kept(self, settings: Trained, images: int) -> int:
        """Measure the bytes that a forward pass of a batch keeps for the backward pass."""
        task = self._task(settings.model_copy(update={"batch_size": images}), images)
        own = {parameter.data_ptr() for parameter in task.module.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in own:
                kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        inputs = task.inputs(0, slice(0, images))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            # the largest network of a supernet, and one of a cohort: they take turns
            task.losses(task.networks(0)[0] if task.members else task.module, inputs)
        return sum(kept.values())
