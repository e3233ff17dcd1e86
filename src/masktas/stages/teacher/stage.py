"""images -> teacher/: pre-train a masked autoencoder (SPEC 2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.config import DataSettings, RuntimeSettings, TeacherSettings
from masktas.console import Console
from masktas.data.batches import Batches
from masktas.data.store.image_store import ImageStore
from masktas.formats import format_size
from masktas.nn.mae import require_decoder_dim
from masktas.nn.patches import num_visible_checked
from masktas.space import Architecture, SearchSpace
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.images import Data, ImageInput
from masktas.stages.common.load import DECODER
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import teacher_architecture, teacher_task
from masktas.stages.teacher.init_from import InitFrom, open_init_from
from masktas.stages.teacher.sizing import mostly_enlarged, sample, sized
from masktas.train import checkpoint
from masktas.train.input import NetworkInput
from masktas.train.networks import save_network

FEW_IMAGES = 20_000
LONG_EPOCHS = 400  # as in the preset small-data


@dataclass(frozen=True, slots=True)
class CheckedTeacher:
    """Settings of a teacher that can be pre-trained.

    Attributes:
        settings: with the shape of the weights that it starts from, if any.
        shape: the teacher's architecture.
        init: the weights that it starts from; None for random ones.
    """

    settings: TeacherSettings
    shape: Architecture
    init: InitFrom | None

    @property
    def parents(self) -> dict[str, Path]:
        """The file that the teacher starts from, by name."""
        return {} if self.init is None else {"init": self.init.file}

    def about(self) -> dict[str, Any]:
        """Return what the manifest says of the weights that the teacher starts from."""
        if self.init is None:
            return {}
        return {"init": self.settings.init, "licence": self.init.licence}


def check(
    settings: TeacherSettings, image_size: tuple[int, int], in_channels: int
) -> CheckedTeacher:
    """Refuse a teacher that cannot be pre-trained on images of that size.

    Raises:
        MasktasError: if shape, masking ratio, decoder or initial weights do not fit.
    """
    init = None
    if settings.init is not None:
        init = open_init_from(settings, image_size, in_channels)
        settings = init.settings
    shape = teacher_architecture(settings, image_size, in_channels)
    require_decoder_dim(settings.decoder_dim)
    num_visible_checked(shape.num_patches, settings.mask_ratio, least=1)
    return CheckedTeacher(settings, shape, init)


def teacher(
    data: Data,
    *,
    out: str | Path,
    settings: TeacherSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    space: SearchSpace | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
) -> dict[str, Any]:
    """Pre-train a teacher on unlabelled images; resumes a killed one.

    Args:
        data: where the images are (docs/data.md), or a Python data set of them.
        out: the run folder; `teacher/` is written in it.
        settings, data_settings, runtime: see `masktas.config`.
        space: of the students; image size, channels and the teacher's shape follow from it where
            they are not set. Without a space they follow from the images.
        console: where progress is shown.
        overwrite: start afresh.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.

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
    context.keep_precision(context.run.teacher)
    context.compile_blocks(context.run.teacher)
    given = settings or TeacherSettings()
    asked = ImageInput.of(data, data_settings or DataSettings())  # size and channels follow
    context.fetch(asked)
    headers = sample(asked.source())
    filled, images, origin = sized(data, given, data_settings, space, headers)
    checked = check(filled, images.image_size, images.in_channels)
    context.console.say(_about(checked, origin))
    _warn_of_small(context, images.image_size, headers.sizes)
    store = context.open_images(images, allowed=("supernet",))
    batches = context.batches(store, "supernet", settings=checked.settings)
    with context.stage(
        context.run.teacher, checked.settings, parents=checked.parents, images=images, store=store
    ) as stage:
        return _train(context, stage, checked, store, batches) if stage.todo else stage.manifest()


def _train(
    context: Context,
    stage: ClaimedStage,
    checked: CheckedTeacher,
    store: ImageStore,
    batches: Batches,
) -> dict[str, Any]:
    settings, start = checked.settings, None
    if checked.init is None:
        _warn_of_few(context, stage, len(batches.images), settings)
    else:
        start = checked.init.model(store.mean, store.std, context.setup)
        context.console.say(f"Starting from {settings.init}; its licence: {checked.init.licence}")
    model, task = teacher_task(settings, checked.shape, batches, context.setup, start)
    cost = stage.train(task, settings, batches)

    def write() -> dict[str, Any]:
        save_network(stage.folder, model.encoder, seen=NetworkInput.of_store(store))
        checkpoint.save(stage.folder / DECODER, model.decoder.state_dict(), {})
        return checked.about()

    return stage.finish(store, cost, write)


def _about(checked: CheckedTeacher, origin: str) -> str:
    """Return a line: what the teacher sees, its shape, and what they are taken from."""
    shape = checked.shape
    height, width = shape.image_size
    channels = "1 channel" if shape.in_channels == 1 else f"{shape.in_channels} channels"
    return (
        f"Teacher: {height} x {width} pixels of {channels} in patches of "
        f"{shape.patch_size}, {shape.embed_dim} wide, {shape.depth} blocks (from {origin}, where "
        "not set)."
    )


def _warn_of_small(
    context: Context, image_size: tuple[int, int], sizes: tuple[tuple[int, int], ...]
) -> None:
    """Warn, before images are decoded, if most are enlarged by more than a factor of 2."""
    size = mostly_enlarged(image_size, sizes)
    if size is not None:
        height, width = size
        context.console.warn(
            f"Images of {height} x {width} pixels are enlarged to {image_size[0]} x "
            f"{image_size[1]}, which costs time and adds nothing: train at their own size, with "
            f"--image-size {format_size(size)} and a space for it."
        )


def _warn_of_few(
    context: Context, stage: ClaimedStage, num_images: int, settings: TeacherSettings
) -> None:
    """Warn where there are too few images for the recipe, unless it is a long one."""
    first = stage.ledger.attempt == 1  # advice once, noise at every resume
    if first and num_images < FEW_IMAGES and settings.epochs < LONG_EPOCHS:
        context.console.warn(
            f"The teacher is pre-trained on {num_images:,} images, fewer than {FEW_IMAGES:,}: "
            "adopt a released one (--teacher), start from one (masktas teacher --init), or train a "
            "smaller one for longer (--config small-data)."
        )
