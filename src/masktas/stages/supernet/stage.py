"""images + teacher -> supernet/: weight sharing by masked distillation (SPEC 3, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.config import DataSettings, RuntimeSettings, SupernetSettings
from masktas.console import Console
from masktas.data.batches import Batches
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError
from masktas.measure.budget import costed
from masktas.nn.mae import require_decoder_dim
from masktas.nn.patches import num_visible, num_visible_checked
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import Ask
from masktas.nn.teachers.teacher import InputSpec, Teacher
from masktas.nn.units import Units, units_of
from masktas.ratings.label_free import PatchSimilarity
from masktas.space import BudgetedSpace, SearchSpace
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.images import Data, ImageInput, labels_of, two_classes
from masktas.stages.common.load import (
    load_reconstruction,
    load_teacher,
    require_same_images,
    save_supernet,
    student_input,
    teacher_file,
    units_for,
)
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import supernet_task, with_mask_ratio
from masktas.stages.common.teachers import adopt
from masktas.stages.supernet.compiling import compile_all
from masktas.stages.supernet.convergence import ConvergenceProbes, probe_epochs
from masktas.stages.supernet.reconstructions import draw_reconstructions
from masktas.stages.supernet.supervised import train_supervised


def check(settings: SupernetSettings, space: SearchSpace) -> None:
    """Refuse a supernet that cannot be trained.

    Raises:
        ConfigError: if decoder, masking ratio or budget do not fit.
        BudgetError: if no architecture meets the budget of the sampler `focus`.
    """
    settings.check(space)
    if settings.supervised:
        return  # nothing is masked, and there is no decoder
    require_decoder_dim(settings.decoder_dim)
    total = units_of(space.image_size, space.unit).total
    num_visible_checked(total, settings.ratio_for(total), least=1)


def supernet(
    data: Data | None = None,
    *,
    out: str | Path,
    settings: SupernetSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Train the weight-sharing supernet of a space; resumes a killed one.

    It learns from the run's teacher without labels; with `supervised` from labels, without a
    teacher.

    Args:
        data: images; those of the teacher if None.
        out: the run folder, with a finished `teacher/` unless the settings or `teacher` name one
            to adopt; `supernet/` is written in it.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.
        teacher: a function as the teacher: from images `[B, C, H, W]`, normalised as the student
            sees them, and the indices `[B, V]` of visible patches to their tokens `[B, V, D_t]`.

    Returns:
        The manifest.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(
        out,
        runtime,
        console,
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    context.keep_precision(context.run.supernet)
    settings = settings or SupernetSettings()
    space = SearchSpace.load(settings.space)
    check(settings, space)
    context.compile_blocks(context.run.supernet, space)
    if settings.supervised:
        if teacher is not None:
            raise ConfigError("supervised=True trains with labels: leave out teacher=.")
        return train_supervised(context, settings, space, data, data_settings)
    if settings.teacher is not None or teacher is not None:
        adopt(context, settings, space, data=data, data_settings=data_settings, ask=teacher)
    images = context.images_recorded(context.run.teacher, data, data_settings)
    inputs = _open(context, images, settings, space, teacher)
    started = None if overwrite else context.run.supernet
    settings = with_mask_ratio(settings, inputs.units.total, started, context.console)
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
        parents={"teacher": teacher_file(context.run)} | models,
        images=images,
        store=inputs.store,
        more={"space": space.to_dict()},
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        return _train(context, stage, settings, space, inputs, candidates)


@dataclass(frozen=True, slots=True)
class DistillationData:
    """What a supernet learns from.

    Attributes:
        store: the images.
        batches: of the split that it is trained on.
        units: what masks are made of.
        seen: what the student sees.
        teacher: frozen.
        labels: class of every image, shard by shard, to watch accuracy; None without.
    """

    store: ImageStore
    batches: Batches
    units: Units
    seen: InputSpec
    teacher: Teacher
    labels: list[list[int]] | None


def _open(
    context: Context,
    images: ImageInput,
    settings: SupernetSettings,
    space: SearchSpace,
    ask: Ask | None,
) -> DistillationData:
    """Open images and teacher; refuse those that do not fit the space."""
    images.require_fit(space.largest, f"space {space.name}")
    context.fetch(images)
    watches = settings.probe_accuracy and settings.probes > 0
    labels = two_classes(images)[0] if watches else None
    require_same_images(context.run, space)
    units = units_for(context.run, space)
    num_visible_checked(units.total, settings.ratio_for(units.total), least=1)
    store = context.open_images(images, allowed=("supernet", "validation"))
    seen = student_input(space, units, store)
    teacher = load_teacher(context.run, seen, context.runtime.device, ask)
    batches = context.batches(store, "supernet", settings=settings)
    return DistillationData(store, batches, units, seen, teacher, labels)


def _train(
    context: Context,
    stage: ClaimedStage,
    settings: SupernetSettings,
    space: SearchSpace,
    inputs: DistillationData,
    candidates: BudgetedSpace,
) -> dict[str, Any]:
    shared, task = supernet_task(
        settings, space, inputs.units, inputs.teacher, inputs.batches, context.setup, candidates
    )
    total = inputs.units.total
    visible = num_visible(total, settings.ratio_for(total))
    held_out = context.batches(inputs.store, "validation")
    probes = _probes(context, settings, shared, inputs, held_out, visible)
    watched = probe_epochs(settings.epochs, settings.probes)
    compile_all(context, shared, settings, lambda size: 1 + inputs.units.num_patches(visible, size))
    cost = stage.train(
        task,
        settings,
        inputs.batches,
        after_epoch=lambda epoch: probes.measure(epoch) if epoch in watched else {},
    )

    def write() -> dict[str, Any]:
        save_supernet(stage.folder, shared)
        rows = draw_reconstructions(
            stage.folder / "reconstructions.png",
            batches=held_out,
            teacher=load_reconstruction(context.run, inputs.seen, context.runtime.device),
            student=shared.subnet(space.largest).eval(),
            visible=visible,
            seed=context.seed,
        )
        return {"probes": probes.describe() if watched else {}, "reconstructions": rows}

    return stage.finish(inputs.store, cost, write)


def _probes(
    context: Context,
    settings: SupernetSettings,
    shared: Supernet,
    inputs: DistillationData,
    held_out: Batches,
    visible: int,
) -> ConvergenceProbes:
    return ConvergenceProbes(
        shared,
        inputs.teacher,
        held_out,
        visible=visible,
        count=settings.probe_images,
        relation=PatchSimilarity(),
        seed=context.seed,
        runtime=context.runtime,
        ranks=context.ranks,
        warn=context.console.warn,
        labels=None if inputs.labels is None else labels_of(inputs.labels, held_out.images),
    )
