"""settings -> hours and memory of a segmentation, before it is started."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.config import AllSettings, SegmentSettings
from masktas.console import Console
from masktas.data.joint import JointBatches
from masktas.formats import parse_size
from masktas.space import Architecture, SearchSpace
from masktas.stages.common.tasks import Setup
from masktas.stages.plan.estimates import Device, StageEstimate
from masktas.stages.plan.trial import NOISE_MEAN, NOISE_STD, Trained, TrainingTrial
from masktas.stages.segment.tasks import joint_augment, segmenter_network, segmenter_task
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.task import Task

GRID = 8  # patches along the sides of the crop that activations are measured on, at most


def plan_segment(
    num_images: int,
    settings: AllSettings,
    *,
    num_classes: int,
    architecture: Architecture | None = None,
    devices: int = 1,
    device: Device | None = None,
    seconds: float = 60.0,
    console: Console | None = None,
) -> StageEstimate:
    """Estimate a segmentation.

    Args:
        num_images: how many images with masks there are.
        settings: of the segmentation, the shares of the splits, and space and budget.
        num_classes: of the decoder.
        architecture: of the network; the costliest within the budget if None.
        devices: how many devices share each batch.
        device: figures of one of them; None measures this machine.
        seconds: to spend on measuring.
        console: where progress is shown.

    Raises:
        ConfigError: if there are fewer images than one batch, or than devices.
        MasktasError: if no architecture meets the budget, or it does not fit crops of this size.
    """
    machine, data = settings.runtime, settings.data
    runtime = Runtime.choose(machine.device, machine.precision, recompute=machine.recompute)
    runtime.keep_memory()  # as the stages do
    if architecture is None:
        space = SearchSpace.load(settings.supernet.space)
        architecture = settings.search.check(space).costliest(random.Random(0))
    size = architecture.image_size if data.image_size is None else parse_size(data.image_size)
    backbone = architecture.replace(num_classes=0, image_size=size)
    trained = round(num_images * (1 - data.validation_share - data.test_share))
    setup = Setup(machine.seed, runtime, ALONE)
    trial = SegmentTrial(trained, machine.accumulate, backbone, num_classes, setup)
    label = "measuring" if device is None else "estimating"
    with (console or Console()).bar(label, 1) as bar:
        found = trial.estimate(settings.segment, devices, device, seconds)
        bar.update(1, trial.stage)
    return found


class SegmentTrial(TrainingTrial):
    """A segmentation on images and masks of noise, each as large as a crop.

    Args:
        images: how many it is trained on.
        accumulate: parts of each batch.
        backbone: for crops, without a head.
        num_classes: of the decoder.
        setup: seed, device and ranks.
    """

    memory_images = first_images = 1  # crops are large, and no norm needs more

    def __init__(
        self,
        images: int,
        accumulate: int,
        backbone: Architecture,
        num_classes: int,
        setup: Setup,
    ) -> None:
        super().__init__("segment", images, accumulate)
        self._backbone, self._num_classes, self._setup = backbone, num_classes, setup

    def estimate(
        self, settings: SegmentSettings, devices: int, device: Device | None, seconds: float
    ) -> StageEstimate:
        """Measure or compute what the stage costs on this number of devices."""
        return self._training(settings, devices, device, seconds)

    def _task(self, settings: Trained, batch_size: int) -> Task[Any]:
        assert isinstance(settings, SegmentSettings)
        shape, classes = self._backbone, self._num_classes
        batches = JointBatches(
            Noise(batch_size, (*shape.image_size, shape.in_channels), classes),
            augment=joint_augment(settings, shape.image_size),
            batch_size=batch_size,
            seed=0,
            device=self._setup.runtime.device,
        )
        network = segmenter_network(settings, shape, classes, None, self._setup)
        return segmenter_task(settings, network, classes, batches, self._setup)

    def _activations(self, settings: Trained) -> float:
        """Measure the bytes per image on a small crop, since they grow with its patches.

        All maps of a segmenter do; only the class token and pyramid pooling do not.
        """
        shape = self._backbone
        small = shape.replace(
            image_size=tuple(min(side, GRID * shape.patch_size) for side in shape.image_size)
        )
        trial = SegmentTrial(self.images, self._accumulate, small, self._num_classes, self._setup)
        found = super(SegmentTrial, trial)._activations(settings)
        return found * shape.num_patches / small.num_patches


class Noise:
    """`PairedImages` of noise.

    Args:
        count: how many.
        shape: (height, width, channels) of each.
        num_classes: that masks hold.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], num_classes: int) -> None:
        self._count, self._shape, self._num_classes = count, shape, num_classes
        self.mean, self.std = [NOISE_MEAN] * shape[2], [NOISE_STD] * shape[2]

    def rows(self, *_: str) -> NDArray[np.int64]:
        """Return the numbers of all images."""
        return np.arange(self._count)

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return an image, `[H, W, C]`."""
        return np.random.default_rng(row).integers(0, 256, self._shape, dtype=np.uint8)

    def mask(self, row: int) -> NDArray[np.int16]:
        """Return its class indices, `[H, W]`."""
        rng = np.random.default_rng(row)
        return rng.integers(0, self._num_classes, self._shape[:2], dtype=np.int16)
