"""A stage of a run, estimated on noise: the networks and steps that the stage itself has."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from masktas.config import AllSettings, MaskedSettings, TrainSettings
from masktas.data.batches import Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import ConfigError
from masktas.nn.patches import num_visible
from masktas.nn.student import MaskedStudent, StudentShape
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import EncoderTeacher, Teacher, by_units
from masktas.nn.units import units_of
from masktas.nn.vit import ViT
from masktas.ratings.batches import LABELLED, batch_size_for
from masktas.space import Architecture, BudgetedSpace, SearchSpace, cost
from masktas.stages.common.load import units_with
from masktas.stages.common.tasks import (
    Setup,
    augment,
    classifier_task,
    cohort_task,
    supernet_task,
    supervised_task,
    teacher_architecture,
    teacher_task,
)
from masktas.stages.distill.stage import BASELINES, network_named
from masktas.stages.plan.estimates import Device, StageEstimate
from masktas.stages.plan.trial import NOISE_MEAN, NOISE_STD, Trained, TrainingTrial
from masktas.stages.refine.rounds import num_staying
from masktas.strategies import Uniforms
from masktas.train.task import Task

NUM_UNIFORM = 3  # uniform baselines of a search


class RunTrial(TrainingTrial):
    """A stage of a run on images of noise: the same networks and steps.

    Args:
        stage: its name.
        images: how many it reads.
        round_: number of a refinement's round, counted from 1.
        space: of the students.
        candidates: the space within the budget.
        settings: of every stage.
        setup: seed, device and ranks.
        adopted: the teacher that the supernet adopts and its grid of patches; None if one is
            pre-trained.
    """

    def __init__(
        self,
        stage: str,
        images: int,
        round_: int,
        *,
        space: SearchSpace,
        candidates: BudgetedSpace,
        settings: AllSettings,
        setup: Setup,
        adopted: tuple[Teacher, tuple[int, int]] | None,
    ) -> None:
        super().__init__(stage, images, settings.runtime.accumulate)
        self._round = round_
        self._space, self._settings, self._setup = space, settings, setup
        self._teacher = teacher_architecture(settings.teacher, space.image_size, space.in_channels)
        self._adopted = None if adopted is None else adopted[0]
        self._grid = self._teacher.grid if adopted is None else adopted[1]
        self._supervised = settings.supernet.supervised
        self._units = (
            units_of(space.image_size, space.unit)
            if self._supervised
            else units_with(space, self._grid, "The teacher")
        )
        self._candidates = candidates

    def estimate(self, devices: int, device: Device | None, seconds: float) -> StageEstimate:
        """Measure or compute what the stage costs on this number of devices."""
        if self.stage == "search":
            return self._search(devices, device, seconds)
        settings: TrainSettings = (
            self._settings.refine.of_round(self._round)
            if self.stage == "refine"
            else getattr(self._settings, self.stage)
        )
        return self._training(settings, devices, device, seconds)

    def task(self, batch_size: int) -> Task[Any]:
        """Return the training of a teacher, a supernet or a classifier on one batch of noise."""
        settings = getattr(self._settings, self.stage)
        return self._task(settings.model_copy(update={"batch_size": batch_size}), batch_size)

    def _num_frozen(self) -> int:
        """Return the number of parameters of the teacher that a stage asks."""
        asks = self.stage in ("supernet", "refine", "distill") and not self._supervised
        return self._frozen().num_params if asks else 0

    def _cohort(self, settings: TrainSettings, batches: Batches) -> Task[Any]:
        """Build the task of a round, of random networks within the budget."""
        whole, rng = self._settings.refine, random.Random(0)
        count = num_staying(whole.cohort, self._round - 1)
        count += whole.baselines * (NUM_UNIFORM + self._settings.search.baselines)
        return self._distilled(
            [self._candidates.sample(rng) for _ in range(count)],
            settings,
            self._settings.supernet,
            batches,
            mask_ratio=whole.mask_ratio,
            pixels=whole.trains_pixels(self._round),
        )

    def _alone(self, batches: Batches) -> Task[Any]:
        """Build the task of one network alone."""
        settings = self._settings.distill
        one = self._candidates.costliest(random.Random(0))  # a baseline costs no more
        if settings.architecture not in BASELINES:
            one, _ = network_named(settings.architecture, self._space)
        return self._distilled(
            [one], settings, settings, batches, mask_ratio=settings.mask_ratio, pixels=True
        )

    def _distilled(
        self,
        networks: Sequence[Architecture],
        settings: TrainSettings,
        decoders: MaskedSettings,
        batches: Batches,
        *,
        mask_ratio: float | None,
        pixels: bool,
    ) -> Task[Any]:
        """Build the masked distillation of networks, by default with the masks of the supernet."""
        frozen, units = self._frozen(), self._units
        sizes = StudentShape(
            decoders.decoder_dim, decoders.decoder_depth, frozen.embed_dim, units.size
        )
        ratio = mask_ratio or self._settings.supernet.ratio_for(units.total)
        return cohort_task(
            settings,
            {str(number): MaskedStudent(one, sizes) for number, one in enumerate(networks)},
            sizes,
            frozen,
            batches,
            self._setup,
            mask_ratio=ratio,
            pixels=pixels,
        )

    def _search(self, devices: int, device: Device | None, seconds: float) -> StageEstimate:
        """Estimate a search: every candidate sees every image, forward only."""
        search = self._settings.search
        if self.images < 1:
            raise ConfigError("No image falls into the search split: raise --search-share.")
        total = self._units.total
        whole = search.rating in LABELLED
        visible = total if whole else num_visible(total, search.ratio_for(total))
        networks = min(search.population * search.generations, self._candidates.size())
        if search.baselines:  # a random search, and one among uniform networks
            networks = 2 * networks + Uniforms(self._candidates).total
        rng = random.Random(0)
        drawn = [self._candidates.sample(rng) for _ in range(50)]
        macs = [
            cost.encoder_macs(one, self._units.num_patches(visible, one.patch_size))
            + visible**2 * one.embed_dim
            for one in drawn
        ]
        masks = 1 if whole else search.num_masks
        flops = 2.0 * masks * sum(macs) / len(macs)
        device_type = self._setup.runtime.device.type
        finest = self._units.num_patches(visible, self._space.largest.patch_size)
        at_once = search.batch_size or batch_size_for(self._space.largest, finest, device_type)
        batch = min(at_once, self.images)
        images = networks * self.images
        if device:
            pace = device.pace(flops) * devices
        else:
            pace = self._rating_pace(drawn, batch, visible, seconds) * devices / masks
        largest = max(drawn, key=cost.params)
        tokens = batch * (finest + 1)
        memory = 4.0 * cost.params(self._space.largest)
        memory += 4.0 * tokens * (3 * max(largest.mlp_dim) + 4 * largest.embed_dim)
        return StageEstimate("search", images, flops * images, pace, images / pace, memory, 0.0)

    def _task(self, settings: Trained, batch_size: int) -> Task[Any]:
        """Build the stage's task on one batch of noise."""
        all_settings, setup = self._settings, self._setup
        assert isinstance(settings, TrainSettings)
        batches = self._noise(settings, batch_size)
        if self.stage == "teacher":
            return teacher_task(all_settings.teacher, self._teacher, batches, setup)[1]
        if self.stage == "refine":
            return self._cohort(settings, batches)
        if self.stage == "distill":
            return self._alone(batches)
        if self.stage == "supernet":
            return self._sharing(batches)
        # the costliest network within the budget: the winner takes no longer
        shape = self._candidates.costliest(random.Random(0))
        tuned = all_settings.finetune
        shape = shape.replace(num_classes=cost.counted_classes(shape), pool=tuned.pool)
        target = torch.zeros(batch_size, dtype=torch.long)
        return classifier_task(tuned, shape, None, batches, target, setup)[1]

    def _sharing(self, batches: Batches) -> Task[Any]:
        """Build the supernet's task."""
        settings, space, setup = self._settings.supernet, self._space, self._setup
        within = settings.by_size(space)
        if self._supervised:
            classes = cost.counted_classes(space.largest)
            target = torch.zeros(batches.batch_size, dtype=torch.long)
            return supervised_task(settings, space, classes, target, batches, setup, within)[1]
        frozen = self._frozen()
        return supernet_task(settings, space, self._units, frozen, batches, setup, within)[1]

    def _frozen(self) -> Teacher:
        """Return the supernet's teacher: the adopted one, or an untrained one of the same shape."""
        frozen = self._adopted or EncoderTeacher(ViT(self._teacher.replace(num_classes=0)))
        return by_units(frozen, self._units, self._grid)

    def _noise(self, settings: TrainSettings, batch_size: int) -> Batches:
        (height, width), channels = self._space.image_size, self._space.in_channels
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (batch_size, height, width, channels), dtype=np.uint8)
        return Batches(
            Images(InMemory(pixels), np.arange(batch_size), "noise"),
            image_size=self._space.image_size,
            mean=[NOISE_MEAN] * channels,
            std=[NOISE_STD] * channels,
            batch_size=batch_size,
            seed=0,
            device=self._setup.runtime.device,
            augment=augment(settings),
        )

    @torch.no_grad()
    def _rating_pace(
        self, networks: list[Architecture], batch: int, visible: int, seconds: float
    ) -> float:
        """Measure how many images per second candidates encode."""
        runtime, space = self._setup.runtime, self._space
        pixels = self._units.size**2 * space.in_channels
        seen = torch.randn(batch, visible, pixels, device=runtime.device)
        ids = torch.arange(visible, device=runtime.device).expand(batch, -1)
        shared = SupervisedSupernet(space, cost.counted_classes(space.largest))
        shared.init_weights(torch.Generator().manual_seed(0))
        shared.to(runtime.device)
        times, until = [], time.monotonic() + seconds
        for one in networks:
            began = time.perf_counter()
            with runtime.autocast():
                patches = self._units.cut(seen, one.patch_size)
                places = self._units.patch_ids(ids, one.patch_size)
                tokens = shared.encoder(one).eval().forward_features(patches, places)
            tokens.sum().item()
            times.append(time.perf_counter() - began)
            if time.monotonic() > until:
                break
        return batch / float(np.median(times[1:] or times))
