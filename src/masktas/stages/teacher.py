"""images -> teacher/: pre-train a masked autoencoder (SPEC 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masktas.config import DataSettings, RuntimeSettings, TeacherSettings
from masktas.console import Console
from masktas.nn.mae import require_decoder_dim
from masktas.stages.build import teacher_architecture, teacher_task
from masktas.stages.context import Context, Data, visible_patches
from masktas.stages.inputs import DECODER
from masktas.train import checkpoint
from masktas.train.networks import save_network


def teacher(
    data: Data,
    *,
    out: str | Path,
    settings: TeacherSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Pre-train a teacher on unlabelled images; goes on where a killed one stopped.

    Args:
        data: where the images are (docs/data.md), or a Python data set of them.
        out: the run folder; `teacher/` is written in it.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.

    Returns:
        The manifest.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(out, runtime, console, overwrite=overwrite)
    settings = settings or TeacherSettings()
    images = context.images_given(data, data_settings, image_size=(224, 224), in_channels=3)
    shape = teacher_architecture(settings, images.image_size, images.in_channels)
    require_decoder_dim(settings.decoder_dim)
    visible_patches(shape, settings.mask_ratio, least=1)
    images.source(download=context.settings.download)  # refused before a folder is made
    stage = context.run.teacher
    store = context.open_images(images, allowed=("supernet",))
    batches = context.batches(store, "supernet", settings=settings)
    if not context.begin(stage, settings, parents={}, images=images.to_dict()):
        return stage.manifest()

    model, task = teacher_task(settings, shape, batches, context.setup)
    cost = context.train(stage, task, settings, batches)

    def results() -> dict[str, Any]:
        save_network(stage.folder, model.encoder)
        checkpoint.save(stage.folder / DECODER, model.decoder.state_dict(), {})
        return context.finish(stage, store, cost, parents={})

    return context.ranks.first(results)
