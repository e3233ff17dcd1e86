"""network + labelled images -> evaluate/NAME/: how good a network is (SPEC 7)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from masktas import launch
from masktas.artifacts import ARCHITECTURE, INPUT, Stage
from masktas.config import DataSettings, EvaluateSettings, RuntimeSettings
from masktas.console import Console
from masktas.data.reading import left_out
from masktas.errors import ConfigError, DataError
from masktas.files import file_digest
from masktas.predictor import Predictor, load
from masktas.segment_predictor import SegmentPredictor
from masktas.space import macs
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.images import Data, changes_since_stage, read_labels
from masktas.stages.common.stage import Context
from masktas.stages.evaluate import probing
from masktas.stages.evaluate.asked import Asked, cached_as, find_images, results_folder
from masktas.stages.evaluate.classifying import classify
from masktas.stages.evaluate.images import GivenImages, LabelledImages, RunImages
from masktas.stages.evaluate.mistakes import Mistake
from masktas.stages.evaluate.results import write_results
from masktas.stages.evaluate.segmenting import evaluate_segmenter
from masktas.stages.evaluate.where import Home, home_of, note_reading
from masktas.train.networks import weights_file
from masktas.train.segmenters import DECODER


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
    linear probe and by nearest neighbours. A segmenter segments images with masks.

    Args:
        path: the network: its folder, or a run, which stands for its `finetune/main`, or else its
            `segment/main`.
        data: labelled images, or images with masks; a split of the network's run if None.
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
    home, is_segmenter = home_of(network.folder), isinstance(network, SegmentPredictor)
    if not is_segmenter:
        settings.refuse_views()
    folder = out if out is not None else home.run.folder if home else network.folder
    runtime = runtime or RuntimeSettings()
    if not is_segmenter:
        runtime = cached_as(home, runtime)
    context = Context(folder, runtime, console, overwrite=overwrite)
    asked = find_images(context, network, home, data, settings, data_settings)
    if is_segmenter:
        asked.images.require_masks()
    stage = results_folder(network, asked, out, name)
    context.keep_precision(stage)
    network.to(context.runtime.device)
    parents = {
        "architecture": network.folder / ARCHITECTURE,
        "weights": weights_file(network.folder),
        "input": network.folder / INPUT,
    }
    if is_segmenter:
        parents["decoder"] = network.folder / DECODER
    about = {"split": asked.split, "contents": asked.contents(with_masks=is_segmenter)}
    if isinstance(network, Predictor) and not network.knows_classes:
        about["pool"] = network.architecture.pool
    recorded = {
        "parents": {name: file_digest(path) for name, path in parents.items()},
        "settings": settings.model_dump(mode="json") | about,
        "seed": context.seed,
        "precision": context.runtime.precision,
        "images": asked.images.to_dict(),
    }
    # an evaluation by an earlier version has not recorded the contents: they are taken as these
    defaults = settings.defaults() | {"contents": about["contents"]}
    if "pool" in about:
        defaults["pool"] = "cls"  # of earlier versions
    _require_same(stage, asked, about["contents"], overwrite=overwrite)
    with _claimed(context, stage, recorded, defaults, parents) as claimed:
        if not claimed.todo:
            return claimed.manifest()
        if isinstance(network, SegmentPredictor):
            return evaluate_segmenter(context, claimed, network, asked, settings)
        return _evaluate(context, claimed, network, asked)


def _require_same(stage: Stage, asked: Asked, contents: str | None, *, overwrite: bool) -> None:
    """Raise DataError if a finished evaluation is of images that have changed since."""
    if not stage.finished or overwrite:
        return
    evaluated = stage.manifest()["settings"]["settings"].get("contents")
    if evaluated is not None and contents is not None and evaluated != contents:
        raise DataError(
            f"{asked.images.location}: these images are not those that {stage.folder} is an "
            "evaluation of: choose another --name (or --out), or add --overwrite to evaluate again."
        )


@contextmanager
def _claimed(
    context: Context,
    stage: Stage,
    recorded: dict[str, Any],
    defaults: dict[str, Any],
    parents: dict[str, Path],
) -> Iterator[ClaimedStage]:
    """Keep other processes out of the folder; a finished evaluation is not repeated."""
    with ExitStack() as held:
        held.callback(os.close, stage.lock())
        stage.sweep()
        todo = stage.begin(recorded, overwrite=context.overwrite, defaults=defaults)
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
        only_test = asked.split == "test" and network.knows_classes  # probes learn from the others
        given = GivenImages(source, spec, only_test=only_test, strict=context.settings.strict)
        found, worst = _on_given(context, network, given, asked)
        images, readings = given, None
        _warn_of_problems(context, given)
        if asked.home is not None:
            readings = _note_shared(context, stage, network, asked.home, given)
    num = found["num_images"] + found.get("num_learnt", 0)
    cost = {"images": num, "flops": 2 * macs(network.architecture) * num}

    def write() -> dict[str, Any]:
        outcome = write_results(stage.folder, network, found, worst, images, context.console.warn)
        about = {"network": asked.network, "split": asked.split}
        return {**about, "readings": readings, "outcome": outcome}

    return stage.finish(images, cost, write)


def _note_shared(
    context: Context, stage: ClaimedStage, network: Predictor, home: Home, given: GivenImages
) -> int | None:
    """Warn of images that the run has; return how often its test split was read, if now too."""
    shared = home.shared(given.digests)
    learnt = {name: count for name, count in shared.items() if name != "test"}
    if learnt and network.knows_classes:
        splits = ", ".join(f"{count:,} of {name}" for name, count in learnt.items())
        context.console.warn(
            f"{sum(learnt.values()):,} of these {len(given.digests):,} images are among those that "
            f"{home.run.folder} has learned or chosen from ({splits}): a measurement of them is "
            "too optimistic."
        )
    if "test" not in shared:
        return None
    return note_reading(
        home,
        weights_file(network.folder),
        home.test_digest,
        name=stage.folder.name,
        warn=context.console.warn,
    )


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
        readings = note_reading(
            asked.home,
            weights_file(network.folder),
            store.splits["test"]["digest"],
            name=stage.folder.name,
            warn=context.console.warn,
        )
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


def _warn_of_problems(context: Context, images: GivenImages) -> None:
    if images.problems:
        problems = [(one["name"], one["reason"]) for one in images.problems]
        context.console.warn(left_out(problems, images.tried))
