"""architecture + supernet + labels -> finetune/NAME/: a classifier (SPEC 5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.artifacts import Run, Stage
from masktas.config import DataSettings, FinetuneSettings, RuntimeSettings
from masktas.console import Console
from masktas.data.batches import Batches
from masktas.data.sources.base import class_id
from masktas.data.store.image_store import ImageStore
from masktas.nn.vit import ViT
from masktas.space import Architecture, macs, params
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.images import Data, ImageInput, labels_of, two_classes
from masktas.stages.common.load import (
    inherited,
    normalised,
    shared_classes,
    wanted_architecture,
)
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import classifier_task, finetuning_for
from masktas.train.best import PREFIX, BestEpoch, Epoch
from masktas.train.checkpoint import save
from masktas.train.input import NetworkInput
from masktas.train.metrics import accuracy
from masktas.train.networks import save_network

LAST = "last.safetensors"


def finetune(
    data: Data | None = None,
    *,
    out: str | Path,
    name: str = "main",
    architecture: str | Path | None = None,
    settings: FinetuneSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
) -> dict[str, Any]:
    """Train a classifier with labels; measure it on the test split once, after the training.

    It is trained on the supernet and search splits and measured on the validation split after
    every epoch. The weights of the best epoch by validation are the result and are what is tested;
    those of the last epoch are kept in `last.safetensors`.

    Args:
        data: labelled images; those of the supernet if None. A run without a supernet needs them,
            and an architecture with weights beside it, unless `init` is `scratch`.
        out: the run folder; `finetune/NAME/` is written in it.
        name: of this network; one run can hold many.
        architecture: an architecture.json; that of `refine/main`, or else of `search/main`, if
            None. Weights beside it are those to start from.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.

    Returns:
        The manifest, with `test` (see `accuracy`) and `validation` of the best epoch,
        `best_epoch`, `epochs` (trained) and `last_validation`.

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
    context.keep_precision(context.run.finetune(name))
    context.compile_blocks(context.run.finetune(name))
    settings = settings or FinetuneSettings()
    if data is None:
        _divided(context.run).manifest()  # refused before it is asked for a network
    path = wanted_architecture(context.run, architecture)
    shape, parents = Architecture.load(path), {"architecture": path}
    settings, why = finetuning_for(settings, shape)
    images = _images(context, shape, data, data_settings)
    start, seen = None, None
    if settings.init == "inherit":
        start, weights = inherited(context.run, path, shape)
        parents |= weights
        seen = NetworkInput.load(path.parent, shape) if "weights" in weights else None
        if images.before is None or _is_foreign(seen, images.before):
            images = normalised(context.run, images, path, parents)
    context.fetch(images)
    labels, classes = check(images, shape)
    shape = shape.replace(num_classes=len(classes), pool=settings.pool)
    same_head = _has_head(context, start, seen, shape, classes)
    folder = context.run.finetune(name)
    store = context.open_images(images, allowed=("supernet", "search", "validation", "test"))
    inputs = FinetuneData(
        store,
        context.batches(store, "supernet", "search", settings=settings),
        labels,
        classes,
        start,
        inherit_head=same_head,
    )
    with context.stage(
        folder,
        settings,
        parents=parents,
        images=images,
        store=store,
        more={"architecture": shape.to_dict()},
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        context.console.say(why)
        return _train(context, stage, settings, shape, inputs)


def _is_foreign(seen: NetworkInput | None, before: Stage) -> bool:
    """Return whether a network has seen other images than a stage: mean and deviation tell."""
    if seen is None:
        return False
    manifest = before.manifest()
    its = [*(list(manifest["images"][name]) for name in ("mean", "std"))]
    white = manifest["settings"]["images"].get("white")
    return [list(seen.mean), list(seen.std), seen.white] != [*its, white]


def _divided(run: Run) -> Stage:
    """Return the stage that has divided the images of a run: the teacher's, if it has no other."""
    if run.is_transfer or run.division.finished or not run.teacher.finished:
        return run.division
    return run.teacher


def _images(
    context: Context, shape: Architecture, data: Data | None, settings: DataSettings | None
) -> ImageInput:
    """Return the images, read and divided as the run's stages have done, if it has any."""
    before = _divided(context.run)
    if data is None or before.begun:
        return context.images_recorded(before, data, settings)
    size, channels = shape.image_size, shape.in_channels
    return context.images_given(data, settings, image_size=size, in_channels=channels)


def check(images: ImageInput, architecture: Architecture) -> tuple[list[list[int]], list[str]]:
    """Refuse images that cannot be learned from; return their labels and classes.

    Raises:
        DataError: if they are of another size than the network sees.
        LabelError: if they have no labels, or are all of one class.
    """
    images.require_fit(architecture, "the architecture")
    return two_classes(images)


@dataclass(frozen=True, slots=True)
class FinetuneData:
    """What a classifier learns from.

    Attributes:
        store: the images.
        batches: of the splits that it is trained on.
        labels: class index of every image, shard by shard.
        classes: their names.
        start: the network whose weights it starts from; None to start from random ones.
        inherit_head: whether it starts from that network's head too.
    """

    store: ImageStore
    batches: Batches
    labels: list[list[int]]
    classes: list[str]
    start: ViT | None
    inherit_head: bool


def _train(
    context: Context,
    stage: ClaimedStage,
    settings: FinetuneSettings,
    shape: Architecture,
    inputs: FinetuneData,
) -> dict[str, Any]:
    store, batches, labels = inputs.store, inputs.batches, inputs.labels
    target = labels_of(labels, batches.images)
    network, task = classifier_task(
        settings,
        shape,
        inputs.start,
        batches,
        target,
        context.setup,
        inherit_head=inputs.inherit_head,
    )
    best, first = BestEpoch(stage.folder, batches.steps_per_epoch), context.ranks.first

    def measure(split: str) -> dict[str, float]:
        of_split = context.batches(store, split)
        target = labels_of(labels, of_split.images)
        return accuracy(network, of_split, target, context.runtime, context.ranks)

    def watch(number: int) -> dict[str, float]:
        epoch = Epoch(number, measure("validation"))
        first(lambda: best.add(epoch, network))
        return {PREFIX + key: value for key, value in epoch.values.items()}

    def is_enough(_: int) -> bool:
        return first(lambda: best.waited() >= settings.patience)

    cost = stage.train(
        task, settings, batches, watch, is_enough=is_enough if settings.patience else None
    )
    last = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    best.load(first(lambda: best.best().number), network)
    test = measure("test")

    def write() -> dict[str, Any]:
        save_network(stage.folder, network, seen=NetworkInput.of_store(store, inputs.classes))
        save(stage.folder / LAST, last, {})
        sizes = {"params": params(shape), "macs": macs(shape)}
        epochs = _epochs(best, settings, context.console)
        return {"classes": inputs.classes, **sizes, **epochs, "test": test}

    return stage.finish(store, cost, write)


def _epochs(best: BestEpoch, settings: FinetuneSettings, console: Console) -> dict[str, Any]:
    """Return what the manifest says of the best and the last epoch, and tell the user."""
    one, last = best.best(), best.recorded()[-1]
    early = ""
    if last.number < settings.epochs:
        early = f"; --patience {settings.patience} ended the training"
    console.say(
        f"Best epoch by validation: {one.number} of {last.number} (top-1 "
        f"{one.values['top1']:.2%}, last {last.values['top1']:.2%}){early}."
    )
    return {
        "best_epoch": one.number,
        "epochs": last.number,
        "validation": one.values,
        "last_validation": last.values,
    }


def _has_head(
    context: Context,
    start: ViT | None,
    seen: NetworkInput | None,
    shape: Architecture,
    classes: list[str],
) -> bool:
    """Return whether the network to start from has learned to tell these classes apart."""
    if start is None or not context.run.supernet.finished:
        return False
    learned = [shared_classes(context.run)]
    if seen is not None and seen.classes is not None:
        learned.append(list(seen.classes))
    named = [None if one is None else [class_id(name) for name in one] for one in learned]
    if any(one != [class_id(name) for name in classes] for one in named):
        return False
    its = start.architecture
    return (its.num_classes, its.pool) == (len(classes), shape.pool)
