"""images + teacher -> supernet/: weight sharing by masked distillation (SPEC 3, Algorithm 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masktas.config import DataSettings, RuntimeSettings, SupernetSettings
from masktas.console import Console
from masktas.nn.mae import require_decoder_dim
from masktas.nn.patches import num_visible_checked
from masktas.nn.teachers.function import Ask
from masktas.nn.teachers.teacher import InputSpec
from masktas.ratings.label_free import PatchSimilarity
from masktas.space import SearchSpace
from masktas.stages.common.load import (
    load_reconstruction,
    load_teacher,
    require_same_patches,
    save_supernet,
    teacher_file,
)
from masktas.stages.common.stage import Context, Data
from masktas.stages.common.tasks import supernet_task
from masktas.stages.common.teachers import adopt
from masktas.stages.supernet.convergence import ConvergenceProbes, probe_epochs
from masktas.stages.supernet.reconstructions import draw_reconstructions


def supernet(
    data: Data | None = None,
    *,
    out: str | Path,
    settings: SupernetSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Train the weight-sharing supernet of a space; goes on where a killed one stopped.

    Args:
        data: images; those of the teacher if None.
        out: the run folder, with a finished `teacher/` unless the settings or `teacher` name one
            to adopt; `supernet/` is written in it.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.
        teacher: a function as the teacher: from images `[B, C, H, W]`, normalised as the student
            sees them, and the indices `[B, V]` of visible patches to their tokens `[B, V, D_t]`.

    Returns:
        The manifest.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(out, runtime, console, overwrite=overwrite)
    settings = settings or SupernetSettings()
    space = SearchSpace.load(settings.space)
    require_decoder_dim(settings.decoder_dim)
    visible = num_visible_checked(space.largest, settings.mask_ratio, least=1)
    if settings.teacher is not None or teacher is not None:
        adopt(context, settings, space, data=data, data_settings=data_settings, ask=teacher)
    images = context.images_recorded(context.run.teacher, data, data_settings)
    images.require_fit(space.largest, f"space {space.name}")
    images.source()
    require_same_patches(context.run, space)
    stage = context.run.supernet
    parents = {"teacher": teacher_file(context.run)}
    store = context.open_images(images, allowed=("supernet", "validation"))
    seen = InputSpec.of(space.largest, store.mean, store.std)
    frozen = load_teacher(context.run, seen, context.runtime.device, teacher)
    batches = context.batches(store, "supernet", settings=settings)
    if not context.begin(
        stage, settings, parents=parents, images=images.to_dict(), space=space.to_dict()
    ):
        return stage.manifest()

    shared, task = supernet_task(settings, space, frozen, batches, context.setup)
    held_out = context.batches(store, "validation")
    probes = ConvergenceProbes(
        shared,
        frozen,
        held_out,
        visible=visible,
        count=settings.probe_images,
        relation=PatchSimilarity(),
        seed=context.seed,
        runtime=context.runtime,
        ranks=context.ranks,
        warn=context.console.warn,
    )
    watched = probe_epochs(settings.epochs, settings.probes)
    cost = context.train(
        stage,
        task,
        settings,
        batches,
        after_epoch=lambda epoch: probes.measure(epoch) if epoch in watched else {},
    )

    def results() -> dict[str, Any]:
        save_supernet(stage.folder, shared)
        rows = draw_reconstructions(
            stage.folder / "reconstructions.png",
            batches=held_out,
            teacher=load_reconstruction(context.run, seen, context.runtime.device),
            student=shared.subnet(space.largest).eval(),
            visible=visible,
            seed=context.seed,
        )
        watching = probes.describe() if watched else {}
        return context.finish(
            stage, store, cost, parents=parents, probes=watching, reconstructions=rows
        )

    return context.ranks.first(results)
