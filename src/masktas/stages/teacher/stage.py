"""images -> teacher/: pre-train a masked autoencoder (SPEC 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masktas.config import DataSettings, RuntimeSettings, TeacherSettings
from masktas.console import Console
from masktas.nn.mae import require_decoder_dim
from masktas.nn.patches import num_visible_checked
from masktas.stages.common.load import DECODER
from masktas.stages.common.stage import Context, Data
from masktas.stages.common.tasks import teacher_architecture, teacher_task
from masktas.stages.teacher.init_from import open_init_from
from masktas.train import checkpoint
from masktas.train.networks import save_network

FEW_IMAGES = 20_000
LONG_EPOCHS = 400  # as in the preset small-data


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
    begun = None
    if settings.init is not None:
        begun = open_init_from(settings, images.image_size, images.in_channels)
        settings = begun.settings
    shape = teacher_architecture(settings, images.image_size, images.in_channels)
    require_decoder_dim(settings.decoder_dim)
    num_visible_checked(shape, settings.mask_ratio, least=1)
    images.source(download=context.settings.download)  # refused before a folder is made
    stage = context.run.teacher
    store = context.open_images(images, allowed=("supernet",))
    batches = context.batches(store, "supernet", settings=settings)
    parents = {} if begun is None else {"init": begun.file}
    if not context.begin(stage, settings, parents=parents, images=images.to_dict()):
        return stage.manifest()

    model = None
    if begun is None:
        _warn_of_few(context, len(batches.images), settings)
    else:
        model = begun.model(store.mean, store.std, context.setup)
        context.console.say(f"Starting from {settings.init}; its licence: {begun.licence}")
    model, task = teacher_task(settings, shape, batches, context.setup, model)
    cost = context.train(stage, task, settings, batches)

    def results() -> dict[str, Any]:
        save_network(stage.folder, model.encoder)
        checkpoint.save(stage.folder / DECODER, model.decoder.state_dict(), {})
        about = {} if begun is None else {"init": settings.init, "licence": begun.licence}
        return context.finish(stage, store, cost, parents=parents, **about)

    return context.ranks.first(results)


def _warn_of_few(context: Context, images: int, settings: TeacherSettings) -> None:
    """Warn where there are too few images for the recipe, unless it is a long one."""
    first = context.ledger.attempt == 1  # once is advice, at every resume it is noise
    if first and images < FEW_IMAGES and settings.epochs < LONG_EPOCHS:
        context.console.warn(
            f"The teacher is pre-trained on {images:,} images, fewer than {FEW_IMAGES:,}: adopt a "
            "released one (--teacher), start from one (masktas teacher --init), or train a smaller "
            "one for longer (--config small-data)."
        )
