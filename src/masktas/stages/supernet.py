"""images + teacher -> supernet/: weight sharing by masked distillation (SPEC 3, Algorithm 1)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from torch import Tensor

from masktas.config import DataSettings, RuntimeSettings, SupernetSettings
from masktas.console import Console
from masktas.nn.distill import StudentShape, feature_loss
from masktas.nn.mae import pixel_loss, require_decoder_dim
from masktas.nn.patches import masking_noise, patchify, random_masking, take
from masktas.nn.supernet import Supernet
from masktas.seeding import seed_for
from masktas.space import SearchSpace
from masktas.stages.context import Context, visible_patches
from masktas.stages.inputs import (
    load_masked_autoencoder,
    load_teacher,
    require_same_patches,
    save_supernet,
)
from masktas.stages.pictures import draw_reconstructions
from masktas.train.checkpoint import TrainingState
from masktas.train.loop import fit
from masktas.train.networks import WEIGHTS
from masktas.train.optim import SlicedAdamW, scaled_lr, warmup_cosine


def supernet(
    data: str | Path | None = None,
    *,
    out: str | Path,
    settings: SupernetSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train the weight-sharing supernet of a space; goes on where a killed one stopped.

    Args:
        data: images; those of the teacher if None.
        out: the run folder, with a finished `teacher/`; `supernet/` is written in it.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.

    Returns:
        The manifest.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(out, runtime, console, overwrite=overwrite)
    settings = settings or SupernetSettings()
    space = SearchSpace.load(settings.space)
    require_decoder_dim(settings.decoder_dim)
    visible = visible_patches(space.largest, settings.mask_ratio, least=1)
    images = context.images_recorded(context.run.teacher, data, data_settings)
    images.require_fit(space.largest, f"space {space.name}")
    images.source()
    frozen = load_teacher(context.run)
    require_same_patches(frozen.encoder.architecture, space)
    stage = context.run.supernet
    parents = {"teacher": context.run.teacher.folder / WEIGHTS}
    store = context.open_images(images, allowed=("supernet", "validation"))
    batches = context.batches(store, "supernet", settings=settings)
    if not context.begin(
        stage, settings, parents=parents, images=images.to_dict(), space=space.to_dict()
    ):
        return stage.manifest()

    device = context.runtime.device
    frozen.encoder.to(device)
    shared = Supernet(
        space, StudentShape(settings.decoder_dim, settings.decoder_depth, frozen.embed_dim)
    )
    shared.init_weights(context.generator("supernet"))
    shared.to(device)
    plan = context.plan("supernet", settings, batches.steps_per_epoch)
    lr = scaled_lr(settings.lr, settings.batch_size)
    optimizer = SlicedAdamW(
        shared.student, shared.edges(), lr=lr, weight_decay=settings.weight_decay
    )
    schedule = warmup_cosine(
        optimizer, total_steps=plan.total_steps, warmup_share=settings.warmup_share
    )

    def step(index: int) -> dict[str, Tensor]:
        """Do lines 5 to 9 of Algorithm 1."""
        schedule.step_update(index)
        pixels, _ = batches.train(index)
        patches = patchify(pixels, space.patch_size)
        noise = masking_noise(len(pixels), patches.shape[1], seed_for(context.seed, "mask", index))
        ids_keep, ids_masked = random_masking(noise.to(device), visible)
        architecture = space.sample(random.Random(seed_for(context.seed, "sample", index)))
        student = shared.subnet(architecture).train()
        with context.runtime.autocast():
            target = frozen(take(patches, ids_keep), ids_keep)
            predicted, projected = student(patches, ids_keep, ids_masked)
        pixel = pixel_loss(predicted, patches, ids_masked)
        feature = feature_loss(projected, target)
        loss = pixel + settings.beta * feature if settings.beta else pixel  # (9)
        loss.backward()
        optimizer.step_slices(dict(student.named_parameters()))
        return {
            "loss": loss.detach(),
            "pixel_loss": pixel.detach(),
            "feature_loss": feature.detach(),
        }

    state = TrainingState(shared.student, optimizer)
    cost = fit(step, plan, state, stage.folder, context.console)
    save_supernet(stage.folder, shared)
    draw_reconstructions(
        stage.folder / "reconstructions.png",
        batches=context.batches(store, "validation"),
        teacher=load_masked_autoencoder(context.run).to(device),
        student=shared.subnet(space.largest).eval(),
        visible=visible,
        seed=context.seed,
    )
    return context.finish(stage, store, cost, parents=parents)
