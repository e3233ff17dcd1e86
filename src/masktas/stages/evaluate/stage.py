"""network + labelled images -> evaluate/NAME/: how good a network is (SPEC 7)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from masktas import launch
from masktas.artifacts import ARCHITECTURE, INPUT, Stage, file_digest, write_json, write_text
from masktas.config import DataSettings, EvaluateSettings, RuntimeSettings, resolve
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.formats import csv_text, format_size
from masktas.predictor import Predictor, load
from masktas.space import macs
from masktas.stages.common.images import (
    Data,
    ImageInput,
    Started,
    changes_since_stage,
    read_labels,
)
from masktas.stages.common.stage import ClaimedStage, Context
from masktas.stages.evaluate import pictures, probing
from masktas.stages.evaluate.classifying import classify
from masktas.stages.evaluate.images import GivenImages, LabelledImages, RunImages
from masktas.stages.evaluate.manifest import EVALUATION
from masktas.stages.evaluate.mistakes import Mistake
from masktas.stages.evaluate.where import Home, Readings, home_of
from masktas.train.networks import WEIGHTS


def evaluate(
    path: str | Path,
    data: Data | None = None,
    *,
    out: str | Path | None = None,
    name: str | None = None,
    settings: EvaluateSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluate a network on labelled images.

    A network with classes classifies them; features of a network without are classified by a
    linear probe and by nearest neighbours.

    Args:
        path: the network: its folder, or a run, which stands for its `finetune/main`.
        data: labelled images; a split of the network's run if None.
        out: folder of the results; `evaluate/NAME/` of the network's run if None.
        name: of the evaluation in that run; by default made from network, split and data.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress and warnings are shown.
        overwrite: evaluate again.

    Returns:
        The manifest, with `outcome`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    if launch.world_size() > 1:
        raise ConfigError("masktas evaluate runs in one process: start it without torchrun.")
    settings, network = settings or EvaluateSettings(), load(path)
    home = home_of(network.folder)
    folder = out if out is not None else home.run.folder if home else network.folder
    context = Context(
        folder, _cached_as(home, runtime or RuntimeSettings()), console, overwrite=overwrite
    )
    asked = _asked(context, network, home, data, settings, data_settings)
    stage = _stage(network, asked, out, name)
    network.to(context.runtime.device)
    parents = {
        "architecture": network.folder / ARCHITECTURE,
        "weights": network.folder / WEIGHTS,
        "input": network.folder / INPUT,
    }
    recorded = {
        "parents": {name: file_digest(path) for name, path in parents.items()},
        "settings": settings.model_dump(mode="json") | {"split": asked.split},
        "seed": context.seed,
        "precision": context.runtime.describe()["precision"],
        "images": asked.images.to_dict(),
    }
    with _claimed(context, stage, recorded, parents) as claimed:
        if not claimed.todo:
            return claimed.manifest()
        return _evaluate(context, claimed, network, asked)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be evaluated.

    Attributes:
        home: run and stage of the network; None if it lies in no run.
        images: where the labelled images are.
        is_own: whether they are those of the run, divided as its stages divided them.
        split: which of them.
        batch_size: images that are computed at once.
    """

    home: Home | None
    images: ImageInput
    is_own: bool
    split: str
    batch_size: int

    @property
    def about(self) -> str:
        """A plain name for the images: empty for the test split of the run."""
        if self.is_own:
            return "" if self.split == "test" else self.split
        stem = re.sub(r"[^\w.-]+", "-", Path(self.images.location).stem).strip("-.") or "data"
        return stem if self.split == "all" else f"{stem}-{self.split}"


def _asked(
    context: Context,
    network: Predictor,
    home: Home | None,
    data: Data | None,
    settings: EvaluateSettings,
    data_settings: DataSettings | None,
) -> Asked:
    """Find the images; those of the network's run are divided as there.

    Raises:
        ConfigError: if there are none, or the split is not one of them.
    """
    seen, given = network.seen, None
    if data is not None:
        sizes = {"image_size": format_size(seen.image_size), "in_channels": seen.in_channels}
        given = ImageInput.of(data, resolve(DataSettings, sizes, data_settings))
    if home is not None:
        of_run = home.stage.manifest()["settings"]["images"]["location"]
        if given is None or given.location == of_run:
            images = context.images_recorded(home.stage, data, data_settings)
            return Asked(home, images, True, _own_split(network, settings), settings.batch_size)
    if given is None:
        raise ConfigError(
            f"{network.folder} lies in no run folder, so its images are not known: give DATA, "
            "labelled images."
        )
    split = settings.split or "all"
    if split not in ("all", "test"):
        raise ConfigError(
            f"--split {split} is a split of a run, and {given.location} is not what the network's "
            "run has divided: choose all or test."
        )
    return Asked(home, given, False, split, settings.batch_size)


def _own_split(network: Predictor, settings: EvaluateSettings) -> str:
    """Return which split of the run is asked for."""
    split = settings.split or "test"
    if split == "all":
        raise ConfigError(
            "--split all is for DATA that the run has not divided: choose test, validation, "
            "search or supernet."
        )
    if split == "supernet" and not network.knows_classes:
        raise ConfigError(
            "The probes of a network without labels learn from the supernet split: choose "
            "--split test, validation or search."
        )
    return split


def _stage(network: Predictor, asked: Asked, out: str | Path | None, name: str | None) -> Stage:
    """Return the folder of the results."""
    if out is not None:
        return Stage("evaluate", Path(out))
    if asked.home is None:
        raise ConfigError(
            f"{network.folder} lies in no run folder: give --out, a folder for the results."
        )
    default = "-".join(filter(None, [asked.home.name, asked.about]))
    return asked.home.run.evaluated(name or default[:100])


def _cached_as(home: Home | None, settings: RuntimeSettings) -> RuntimeSettings:
    """Return the settings with the cache that the network's stage has read, to decode once only."""
    if home is None or settings.cache_dir is not None:
        return settings
    started = Started.read(home.stage)
    folder = home.run.folder / "data" if started is None else Path(started.store).parent
    cache = folder if folder.is_dir() else home.run.folder / "data"
    return settings.model_copy(update={"cache_dir": str(cache)})


@contextmanager
def _claimed(
    context: Context, stage: Stage, recorded: dict[str, Any], parents: dict[str, Path]
) -> Iterator[ClaimedStage]:
    """Keep other processes out of the folder; a finished evaluation is not repeated."""
    with ExitStack() as held:
        held.callback(os.close, stage.lock())
        stage.sweep()
        todo = stage.begin(recorded, overwrite=context.overwrite)
        if not todo:
            context.console.say(f"{stage.folder} is finished: nothing to do.")
        yield ClaimedStage(context, stage, parents, todo=todo)


def _evaluate(
    context: Context, stage: ClaimedStage, network: Predictor, asked: Asked
) -> dict[str, Any]:
    """Evaluate and write the results."""
    if asked.is_own:
        found, worst, images, readings = _on_split(context, stage, network, asked)
    else:
        source = asked.images.source()
        spec = network.seen.decode_spec
        given = GivenImages(
            source, spec, only_test=asked.split == "test", strict=context.settings.strict
        )
        found, worst = _on_given(context, network, given, asked)
        images, readings = given, None
        _warn_of_problems(context, given)
    num = found["num_images"] + found.get("num_learnt", 0)
    cost = {"images": num, "flops": 2 * macs(network.architecture) * num}

    def write() -> dict[str, Any]:
        outcome = _write(context, stage.folder, network, found, worst, images)
        about = {"network": str(network.folder.resolve()), "split": asked.split}
        return {**about, "readings": readings, "outcome": outcome}

    return stage.finish(images, cost, write)


def _on_split(
    context: Context, stage: ClaimedStage, network: Predictor, asked: Asked
) -> tuple[dict[str, Any], list[Mistake], LabelledImages, int | None]:
    """Evaluate on a split of the network's run; also return how often its test split was read."""
    assert asked.home is not None
    source = asked.images.source()
    labels, classes = read_labels(source)
    splits = (asked.split,) if network.knows_classes else ("supernet", asked.split)
    store = context.open_images(asked.images, allowed=splits)
    if changes := changes_since_stage(asked.home.stage, store):
        context.console.warn(f"The images have changed since {asked.home.stage.folder}: {changes}.")
    readings = None
    if asked.split == "test":
        readings = _note_reading(context, stage, asked.home, network, store.splits)
    images = RunImages(store, asked.split, source, labels, classes)
    if network.knows_classes:
        found, worst = classify(context, network, images, asked.batch_size)
        return found, worst, images, readings
    learnt = RunImages(store, "supernet", source, labels, classes)
    known = probing.encode(context, network, learnt, asked.batch_size)
    tested = probing.encode(context, network, images, asked.batch_size)
    return probing.probe(known, tested, seed=context.seed), [], images, readings


def _on_given(
    context: Context, network: Predictor, images: LabelledImages, asked: Asked
) -> tuple[dict[str, Any], list[Mistake]]:
    """Evaluate on images that the network's run has not divided."""
    if network.knows_classes:
        return classify(context, network, images, asked.batch_size)
    whole = probing.encode(context, network, images, asked.batch_size)
    return probing.probe(*probing.divide(whole), seed=context.seed), []


def _note_reading(
    context: Context,
    stage: ClaimedStage,
    home: Home,
    network: Predictor,
    splits: dict[str, dict[str, Any]],
) -> int:
    """Count this reading of the test split, and warn if it is not the first."""
    counted = Readings(home, file_digest(network.folder / WEIGHTS))
    digest = splits["test"]["digest"]
    before = counted.before(digest)
    if before:
        times = "once" if before == 1 else f"{before} times"
        context.console.warn(
            f"The test split has been read {times} for this network already. An accuracy "
            "by which networks or settings are chosen is too optimistic: use --split validation "
            "for choices."
        )
    counted.note(digest, stage.folder.name)
    return before + 1


def _warn_of_problems(context: Context, images: GivenImages) -> None:
    if images.problems:
        first = images.problems[0]
        more = ", ..." if len(images.problems) > 1 else ""
        context.console.warn(
            f"{len(images.problems)} images could not be read and were left out: {first['name']} "
            f"({first['reason']}){more}."
        )


def _write(
    context: Context,
    folder: Path,
    network: Predictor,
    found: dict[str, Any],
    worst: list[Mistake],
    images: LabelledImages,
) -> dict[str, Any]:
    """Write the results, and return those that the manifest repeats."""
    if not network.knows_classes:
        write_json(folder / EVALUATION, found)
        return found
    classes = network.classes
    listed = [one.to_dict(images) for one in worst]
    write_json(folder / EVALUATION, found | {"classes": classes, "mistakes": listed})
    rows = found["per_class"]
    write_text(folder / "per_class.csv", csv_text(rows[0], (row.values() for row in rows)))
    counts = zip(classes, found["confusion"], strict=True)
    write_text(
        folder / "confusion.csv",
        csv_text(["true \\ predicted", *classes], ([one, *row] for one, row in counts)),
    )
    try:
        pictures.draw_confusion(folder / "confusion.png", np.array(found["confusion"]), classes)
        pictures.draw_mistakes(folder / "mistakes.png", worst)
    except ConfigError as error:
        context.console.warn(f"{error} confusion.png and mistakes.png were not drawn.")
    left_out = ("per_class", "confusion", "calibration_bins")
    return {key: value for key, value in found.items() if key not in left_out}
