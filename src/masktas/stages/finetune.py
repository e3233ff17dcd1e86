"""architecture + supernet + labels -> finetune/NAME/: a classifier (SPEC 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masktas.artifacts import ARCHITECTURE
from masktas.config import DataSettings, FinetuneSettings, RuntimeSettings
from masktas.console import Console
from masktas.errors import LabelError
from masktas.space import Architecture, macs, params
from masktas.stages.common.labels import labels_of, read_labels
from masktas.stages.common.load import load_supernet
from masktas.stages.common.stage import Context, Data
from masktas.stages.common.tasks import classifier_task
from masktas.train.metrics import accuracy
from masktas.train.networks import WEIGHTS, save_network


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
    labels, classes = read_labels(images.source())
    if len(classes) < 2:
        raise LabelError(f"{images.location}: all images are of one class, {classes[0]!r}.")
    shape = shape.replace(num_classes=len(classes), pool=settings.pool)
    stage = context.run.finetune(name)
    store = context.open_images(images, allowed=("supernet", "search", "validation", "test"))
    batches = context.batches(store, "supernet", "search", settings=settings)
    if not context.begin(
        stage, settings, parents=parents, images=images.to_dict(), architecture=shape.to_dict()
    ):
        return stage.manifest()

    network, task = classifier_task(
        settings,
        shape,
        shared if settings.init == "inherit" else None,
        batches,
        labels_of(labels, batches.images),
        context.setup,
    )
    validation: dict[str, float] = {}

    def measure(split: str) -> dict[str, float]:
        of_split = context.batches(store, split)
        target = labels_of(labels, of_split.images)
        return accuracy(network, of_split, target, context.runtime, context.ranks)

    def watch(_: int) -> dict[str, float]:
        validation.update(measure("validation"))
        return {f"validation_{key}": value for key, value in validation.items()}

    cost = context.train(stage, task, settings, batches, after_epoch=watch)
    test = measure("test")

    def results() -> dict[str, Any]:
        save_network(stage.folder, network)
        return context.finish(
            stage,
            store,
            cost,
            parents=parents,
            classes=classes,
            params=params(shape),
            macs=macs(shape),
            validation=validation,
            test=test,
        )

    return context.ranks.first(results)


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
