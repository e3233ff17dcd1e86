"""architecture + supernet + labels -> finetune/NAME/: a classifier (SPEC 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.config import DataSettings, FinetuneSettings, RuntimeSettings
from masktas.console import Console
from masktas.errors import LabelError
from masktas.nn.supernet import Supernet
from masktas.nn.vit import ViT
from masktas.space import Architecture, macs, params
from masktas.stages.context import Context
from masktas.stages.inputs import load_supernet
from masktas.train.checkpoint import TrainingState
from masktas.train.loop import fit
from masktas.train.metrics import accuracy
from masktas.train.networks import ARCHITECTURE, WEIGHTS, save_network
from masktas.train.optim import adamw, scaled_lr, warmup_cosine


def finetune(
    data: str | Path | None = None,
    *,
    out: str | Path,
    name: str = "main",
    architecture: str | Path | None = None,
    settings: FinetuneSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a classifier with labels and measure it on the test split, once, at the end.

    It trains on the supernet and search splits, watches the validation split and reads the test
    split after the last epoch only.

    Args:
        data: labelled images; those of the supernet if None.
        out: the run folder; `finetune/NAME/` is written in it.
        name: of this network; one run can hold many.
        architecture: an architecture.json; that of `search/main` if None.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.

    Returns:
        The manifest, with `test` (`top1`, `top5`) and `validation`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(out, runtime, console, overwrite=overwrite)
    settings = settings or FinetuneSettings()
    images = context.images_recorded(context.run.supernet, data, data_settings)
    shape, parents = _wanted(context, architecture)
    shared = load_supernet(context.run)
    if settings.init == "inherit":
        shared.space.require(shape)
        parents["supernet"] = context.run.supernet.folder / WEIGHTS
    images.require_fit(shape, "the architecture")
    labels, classes = images.source().labels()
    if len(classes) < 2:
        raise LabelError(f"{images.location}: all images are of one class, {classes[0]!r}.")
    shape = shape.replace(num_classes=len(classes), pool=settings.pool)
    stage = context.run.finetune(name)
    store = context.open_images(images, allowed=("supernet", "search", "validation", "test"))
    label_of = torch.tensor(labels)
    batches = context.batches(store, "supernet", "search", settings=settings)
    if not context.begin(
        stage, settings, parents=parents, images=images.to_dict(), architecture=shape.to_dict()
    ):
        return stage.manifest()

    target_of = label_of[batches.images.positions]
    network = _network(context, shape, settings, shared).to(context.runtime.device)
    plan = context.plan("finetune", settings, batches.steps_per_epoch)
    lr = scaled_lr(settings.lr, settings.batch_size)
    optimizer = adamw(network, lr=lr, weight_decay=settings.weight_decay)
    schedule = warmup_cosine(
        optimizer, total_steps=plan.total_steps, warmup_share=settings.warmup_share
    )

    def step(index: int) -> dict[str, Tensor]:
        schedule.step_update(index)
        pixels, numbers = batches.train(index)
        target = target_of[numbers].to(pixels.device)
        with context.runtime.autocast():
            logits = network(pixels)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=settings.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    def measure(split: str) -> dict[str, float]:
        of_split = context.batches(store, split)
        return accuracy(network, of_split, label_of[of_split.images.positions], context.runtime)

    def watch(_: int) -> dict[str, float]:
        return {f"validation_{key}": value for key, value in measure("validation").items()}

    network.train()
    state = TrainingState(network, optimizer)
    cost = fit(step, plan, state, stage.folder, context.console, after_epoch=watch)
    save_network(stage.folder, network.cpu())
    network.to(context.runtime.device)
    return context.finish(
        stage,
        store,
        cost,
        parents=parents,
        classes=classes,
        params=params(shape),
        macs=macs(shape),
        validation=measure("validation"),
        test=measure("test"),
    )


def _wanted(
    context: Context, architecture: str | Path | None
) -> tuple[Architecture, dict[str, Path]]:
    """Return the architecture to train and the file it came from."""
    if architecture is None:
        context.run.search("main").manifest()
        architecture = context.run.search("main").folder / ARCHITECTURE
    path = Path(architecture)
    if path.is_dir():
        path /= ARCHITECTURE
    return Architecture.load(path), {"architecture": path}


def _network(
    context: Context, shape: Architecture, settings: FinetuneSettings, shared: Supernet
) -> ViT:
    """Build the network and give it the supernet's slice, or random weights."""
    network = ViT(shape, drop_path=settings.drop_path)
    network.init_weights(context.generator("finetune"))
    if settings.init == "inherit":
        network.load_state_dict(shared.extract(shape).state_dict())
    return network
