"""settings -> hours and memory of every stage, before anything is started.

Operations are counted in closed form, as in the manifests of a run. This machine's speed is
measured on images of noise; for other machines the user gives figures.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masktas.config import AllSettings, SupernetSettings, TrainSettings
from masktas.config.derived import search_for, supernet_for, teacher_for
from masktas.console import Console
from masktas.data.batches import Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import ConfigError
from masktas.nn.patches import num_visible
from masktas.nn.student import MaskedStudent, StudentShape
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import EncoderTeacher, InputSpec, Teacher, by_units
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
    finetuning_for,
    supernet_task,
    supervised_task,
    teacher_architecture,
    teacher_task,
)
from masktas.stages.common.teachers import open_teacher
from masktas.stages.plan.estimates import Device, StageEstimate, joined
from masktas.stages.plan.trial import NOISE_MEAN, NOISE_STD, Trained, TrainingTrial
from masktas.stages.refine.rounds import num_staying
from masktas.stages.transfer.source import SourceRun
from masktas.strategies import Uniforms
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.task import Task

NUM_UNIFORM = 3  # uniform baselines of a search


def plan(
    num_images: int,
    settings: AllSettings,
    *,
    refine: bool = True,
    devices: int = 1,
    device: Device | None = None,
    seconds: float = 60.0,
    console: Console | None = None,
    source: str | Path | None = None,
) -> list[StageEstimate]:
    """Estimate a whole run: teacher, supernet, search, refinement, fine-tuning of one network.

    Of a transfer, the stages after the supernet.

    Args:
        num_images: how many images there are.
        settings: of every stage, as for `run`.
        refine: whether the run refines.
        devices: how many devices share each batch.
        device: figures of one of them; None measures this machine.
        seconds: to spend on measuring.
        console: where progress is shown.
        source: the run folder of a transfer's supernet and teacher; None for a run of its own.

    Raises:
        ConfigError: if there are fewer images than one batch, or than devices.
        BudgetError: if no architecture meets the budget.
    """
    console = console or Console()
    if source is not None:
        settings = SourceRun.open(Path(source)).settings_for_plan(settings)
    runtime = Runtime.choose(
        settings.runtime.device, settings.runtime.precision, recompute=settings.runtime.recompute
    )
    runtime.keep_memory()  # as the stages do
    settings, space, candidates = _resolved(settings)
    setup = Setup(settings.runtime.seed, runtime, ALONE)
    teacher = _adopted(space, settings)
    trials = [
        Trial(
            *part,
            space=space,
            candidates=candidates,
            settings=settings,
            setup=setup,
            adopted=teacher,
        )
        for part in _parts(num_images, settings, refine=refine)
        if source is None or part[0] != "supernet"
    ]
    estimates = []
    label = "measuring" if device is None else "estimating"
    with console.bar(label, len(trials)) as bar:
        for number, trial in enumerate(trials, start=1):
            estimates.append(trial.estimate(devices, device, seconds / len(trials)))
            bar.update(number, trial.stage)
    return joined(estimates)


def task_on_noise(
    stage: str, settings: AllSettings, runtime: Runtime, batch_size: int
) -> Task[Any]:
    """Return the training of one stage of a run on a batch of noise, to measure its steps.

    Args:
        stage: `teacher`, `supernet` or `finetune`.
        settings: of every stage, as for `run`.
        runtime: device and precision.
        batch_size: images of the batch, instead of that of the settings.

    Raises:
        ConfigError, BudgetError: if the settings do not go together.
    """
    runtime.keep_memory()  # as the stages do
    settings, space, candidates = _resolved(settings)
    setup, adopted = Setup(settings.runtime.seed, runtime, ALONE), _adopted(space, settings)
    trial = Trial(
        stage, batch_size, 0, space=space, candidates=candidates, settings=settings,
        setup=setup, adopted=adopted,
    )  # fmt: skip
    return trial.task(batch_size)


def _resolved(settings: AllSettings) -> tuple[AllSettings, SearchSpace, BudgetedSpace]:
    """Return the settings as a run would resolve them, the space, and its part in the budget."""
    space = SearchSpace.load(settings.supernet.space)
    shapes = {
        "teacher": teacher_for(space, settings.teacher),
        "supernet": _sampled(settings),
        "search": search_for(settings.supernet, settings.search),
        "refine": settings.refine.of_supernet(settings.supernet),
    }
    settings = settings.model_copy(update=shapes)
    candidates = settings.search.check(space)
    tuned, _ = finetuning_for(settings.finetune, candidates.costliest(random.Random(0)))
    return settings.model_copy(update={"finetune": tuned}), space, candidates


def _sampled(settings: AllSettings) -> SupernetSettings:
    """Return the supernet's settings of a run; its sampler is `uniform` if only latency is limited.

    Nothing is measured for a plan, so it is not known which networks are near such a limit.
    """
    supernet = supernet_for(settings.supernet, settings.search)
    if supernet.sampler == "focus" and all("latency" in name for name in supernet.limits):
        return supernet.model_copy(update={"sampler": "uniform"})
    return supernet


def _parts(num_images: int, settings: AllSettings, *, refine: bool) -> list[tuple[str, int, int]]:
    """Return stage, number of images that it reads, and number of a refinement's round or 0.

    There is no teacher where one is adopted, and no teacher and no refinement with labels.
    """
    data = settings.data
    held_out = data.search_share + data.validation_share + data.test_share
    searched = min(settings.search.num_images, round(num_images * data.search_share))
    trained = round(num_images * (1 - held_out))
    supervised = settings.supernet.supervised
    asked = supervised or settings.supernet.teacher is not None
    pretrained = [] if asked else [("teacher", trained, 0)]
    rounds = range(1, len(settings.refine.epochs) + 1) if refine and not supervised else ()
    return [
        *pretrained,
        ("supernet", trained, 0),
        ("search", searched, 0),
        *(("refine", trained, number) for number in rounds),
        ("finetune", trained + round(num_images * data.search_share), 0),
    ]


def _adopted(space: SearchSpace, settings: AllSettings) -> tuple[Teacher, tuple[int, int]] | None:
    """Return the teacher that the supernet would adopt, if any, and its grid of patches."""
    adopted = settings.supernet
    if adopted.teacher is None:
        return None
    found, _ = open_teacher(
        adopted.teacher, num_heads=adopted.teacher_heads, partial=adopted.teacher_partial
    )
    channels = space.in_channels
    student = InputSpec.of(space.largest, [NOISE_MEAN] * channels, [NOISE_STD] * channels)
    fitted = found.fitted(
        student,
        patch_sizes=space.patch_size,
        layer=adopted.teacher_layer,
        resize=adopted.teacher_resize,
    )
    return fitted.for_student(student), fitted.sight.grid


class Trial(TrainingTrial):
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
        asks = self.stage in ("supernet", "refine") and not self._supervised
        return self._frozen().num_params if asks else 0

    def _cohort(self, settings: TrainSettings, batches: Batches) -> Task[Any]:
        """Build the task of a round, of random networks within the budget."""
        whole, shape = self._settings.refine, self._settings.supernet
        frozen, rng = self._frozen(), random.Random(0)
        count = num_staying(whole.cohort, self._round - 1)
        count += whole.baselines * (NUM_UNIFORM + self._settings.search.baselines)
        sizes = StudentShape(
            shape.decoder_dim, shape.decoder_depth, frozen.embed_dim, self._units.size
        )
        students = {
            str(number): MaskedStudent(self._candidates.sample(rng), sizes)
            for number in range(count)
        }
        return cohort_task(
            settings,
            students,
            sizes,
            frozen,
            batches,
            self._setup,
            mask_ratio=whole.mask_ratio or shape.ratio_for(self._units.total),
            pixels=whole.trains_pixels(self._round),
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
