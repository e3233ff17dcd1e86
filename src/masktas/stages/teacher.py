"""images -> teacher/: pre-train a masked autoencoder (SPEC 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from masktas.config import DataSettings, RuntimeSettings, TeacherSettings
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.nn.mae import MaskedAutoencoder, pixel_loss, require_decoder_dim
from masktas.nn.patches import masking_noise, patchify, random_masking
from masktas.seeding import seed_for
from masktas.space import Architecture
from masktas.stages.context import Context, visible_patches
from masktas.stages.inputs import DECODER
from masktas.train import checkpoint
from masktas.train.checkpoint import TrainingState
from masktas.train.loop import fit
from masktas.train.networks import save_network
from masktas.train.optim import adamw, scaled_lr, warmup_cosine


def teacher(
    data: str | Path,
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
        data: a folder of images, or a parquet file or folder of them.
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
    images = context.images_given(data, data_settings, image_size=224, in_channels=3)
    shape = teacher_architecture(settings, images.image_size, images.in_channels)
    require_decoder_dim(settings.decoder_dim)
    visible = visible_patches(shape, settings.mask_ratio, least=1)
    images.source()  # a wrong path is refused before a folder is made
    stage = context.run.teacher
    store = context.open_images(images, allowed=("supernet",))
    batches = context.batches(store, "supernet", settings=settings)
    if not context.begin(stage, settings, parents={}, images=images.to_dict()):
        return stage.manifest()

    model = MaskedAutoencoder(
        shape, decoder_dim=settings.decoder_dim, decoder_depth=settings.decoder_depth
    )
    model.init_weights(context.generator("teacher"))
    model.to(context.runtime.device)
    plan = context.plan("teacher", settings, batches.steps_per_epoch)
    lr = scaled_lr(settings.lr, settings.batch_size)
    optimizer = adamw(model, lr=lr, weight_decay=settings.weight_decay)
    schedule = warmup_cosine(
        optimizer, total_steps=plan.total_steps, warmup_share=settings.warmup_share
    )

    def step(index: int) -> dict[str, Tensor]:
        schedule.step_update(index)
        pixels, _ = batches.train(index)
        patches = patchify(pixels, shape.patch_size)
        noise = masking_noise(len(pixels), shape.num_patches, seed_for(context.seed, "mask", index))
        ids_keep, ids_masked = random_masking(noise.to(pixels.device), visible)
        with context.runtime.autocast():
            predicted = model(patches, ids_keep, ids_masked)
        loss = pixel_loss(predicted, patches, ids_masked)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"pixel_loss": loss.detach()}

    state = TrainingState(model, optimizer)
    cost = fit(step, plan, state, stage.folder, context.console)
    save_network(stage.folder, model.encoder)
    checkpoint.save(stage.folder / DECODER, model.decoder.state_dict(), {})
    return context.finish(stage, store, cost, parents={})


def teacher_architecture(
    settings: TeacherSettings, image_size: int, in_channels: int
) -> Architecture:
    """Return the teacher's shape, all blocks alike, without a head."""
    if settings.embed_dim % settings.num_heads:
        raise ConfigError(
            f"The teacher's embed_dim {settings.embed_dim} does not divide into "
            f"{settings.num_heads} heads: choose a num_heads that divides it."
        )
    return Architecture(
        embed_dim=settings.embed_dim,
        num_heads=(settings.num_heads,) * settings.depth,
        mlp_ratio=(settings.mlp_ratio,) * settings.depth,
        head_dim=settings.embed_dim // settings.num_heads,
        image_size=(image_size, image_size),
        patch_size=settings.patch_size,
        in_channels=in_channels,
        num_classes=0,
    )
