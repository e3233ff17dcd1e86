"""settings -> hours and memory of every stage, before anything is started.

Operations are counted in closed form, as in the manifests of a run. This machine's speed is
measured on images of noise; for other machines the user gives figures.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from masktas.config import AllSettings, SupernetSettings
from masktas.config.derived import search_for, supernet_for, teacher_for
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.nn.teachers.teacher import InputSpec, Teacher
from masktas.space import BudgetedSpace, SearchSpace
from masktas.stages.common.tasks import Setup, finetuning_for
from masktas.stages.common.teachers import open_teacher
from masktas.stages.plan.estimates import Device, StageEstimate, joined
from masktas.stages.plan.run_trial import RunTrial
from masktas.stages.plan.trial import NOISE_MEAN, NOISE_STD
from masktas.stages.transfer.source import SourceRun
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.task import Task


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
    distill: bool = False,
) -> list[StageEstimate]:
    """Estimate a whole run: teacher, supernet, search, refinement, fine-tuning of one network.

    Of a transfer, the stages after the supernet. Or the distillation of one network alone.

    Args:
        num_images: how many images there are.
        settings: of every stage, as for `run`.
        refine: whether the run refines.
        devices: how many devices share each batch.
        device: figures of one of them; None measures this machine.
        seconds: to spend on measuring.
        console: where progress is shown.
        source: the run folder of a transfer's supernet and teacher; None for a run of its own.
        distill: instead of a run, the distillation of the network that the settings name, for as
            many images as the supernet sees.

    Raises:
        ConfigError: if there are fewer images than one batch, or than devices, or if a
            distillation has labels or the length of a finished run.
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
        RunTrial(
            *part,
            space=space,
            candidates=candidates,
            settings=settings,
            setup=setup,
            adopted=teacher,
        )
        for part in _parts(num_images, settings, refine=refine, distill=distill)
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
    trial = RunTrial(
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
        "distill": settings.distill.of_supernet(settings.supernet),
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


def _parts(
    num_images: int, settings: AllSettings, *, refine: bool, distill: bool
) -> list[tuple[str, int, int]]:
    """Return stage, number of images that it reads, and number of a refinement's round or 0.

    There is no teacher where one is adopted, and no teacher and no refinement with labels.
    """
    data = settings.data
    held_out = data.search_share + data.validation_share + data.test_share
    searched = min(settings.search.num_images, round(num_images * data.search_share))
    trained = round(num_images * (1 - held_out))
    supervised = settings.supernet.supervised
    asked = supervised or settings.supernet.teacher is not None
    if distill and supervised:
        raise ConfigError("--distill learns from a teacher: leave out --supervised.")
    if distill and settings.distill.as_costly_as is not None:
        raise ConfigError(
            "--distill plans as many images as the supernet sees: leave out as_costly_as, the "
            "length of a run that is finished."
        )
    if distill:
        return [("distill", trained, 0)]
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
