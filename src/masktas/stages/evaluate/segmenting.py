"""Evaluate a segmenter: one matrix over all pixels of images with masks, at their own size."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from masktas.config import EvaluateSettings, SegmentSettings
from masktas.data.examples import Examples
from masktas.data.masks import Classes, Pairs, open_pairs
from masktas.data.segmentation import SegmentationImages
from masktas.data.store.image_store import SplitAccess
from masktas.errors import ConfigError, DataError
from masktas.files import write_json, write_text
from masktas.formats import csv_text
from masktas.segment_predictor import SegmentPredictor
from masktas.space import macs
from masktas.space.decoder import Decoder
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.images import changes_since_stage, open_masks
from masktas.stages.common.stage import Context
from masktas.stages.evaluate import pictures
from masktas.stages.evaluate.asked import Asked
from masktas.stages.evaluate.manifest import EVALUATION
from masktas.stages.evaluate.where import note_reading
from masktas.stages.evaluate.worst import WorstImages
from masktas.train.confusion import Confusion, confusion
from masktas.train.networks import weights_file
from masktas.train.segmenters import SegmenterFacts

NO_NUMBER = -(2**31) - 1  # and below: numbers that no mask holds
HEADER = ("class", "share", "iou", "accuracy")
MAX_NAMED = 5  # classes that a sentence names


def evaluate_segmenter(
    context: Context,
    stage: ClaimedStage,
    network: SegmentPredictor,
    asked: Asked,
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """Evaluate a segmenter and write the results.

    Raises:
        MasktasError: with one sentence for the user.
    """
    images = _of_run(context, asked) if asked.is_own else _given(context, network, asked)
    split, readings = asked.split if asked.is_own else "test", None
    home, digest = asked.home, images.splits["test"]["digest"]
    if home is not None and split == "test" and (asked.is_own or digest == home.test_digest):
        weights, warn = weights_file(network.folder), context.console.warn
        readings = note_reading(home, weights, digest, name=stage.folder.name, warn=warn)
    scales = tuple(float(one) for one in settings.scales.split(","))
    views = network.views(scales, flip=settings.flip)
    views = replace(views, at_once=min(settings.batch_size, views.at_once))
    rows, began = images.rows(split).tolist(), time.perf_counter()
    worst = WorstImages(images)
    with context.console.bar("evaluating", len(rows)) as bar:
        measured = confusion(
            network,
            images,
            split,
            views=views,
            runtime=context.runtime,
            advance=bar.update,
            watch=worst.add,
        )
    seconds = time.perf_counter() - began
    found = _outcome(context, measured, images, split) | {
        "num_images": len(rows),
        "images_per_second": len(rows) / seconds,
    }
    shape, facts = network.architecture, network.facts
    decoder = Decoder(facts.decoder, facts.channels, len(facts.classes))
    windows = sum(views.windows(images.size(row), shape.image_size) for row in rows)
    cost = {"images": len(rows), "flops": 2 * (macs(shape) + decoder.macs(shape)) * windows}

    def write() -> dict[str, Any]:
        outcome = _write(context, stage.folder, measured, network.classes, found)
        Examples.write(stage.folder, worst.found)
        about = {"network": asked.network, "split": asked.split}
        return {**about, "readings": readings, "outcome": outcome}

    return stage.finish(images, cost, write)


def _of_run(context: Context, asked: Asked) -> SegmentationImages:
    """Open a split of the images that the segmenter was trained with."""
    assert asked.home is not None
    recorded = asked.home.stage.manifest()["settings"]["settings"]
    images = open_masks(
        asked.images,
        SegmentSettings.model_validate(dict(recorded)),
        (asked.split,),
        strict=context.settings.strict,
        bar=context.console.bar,
    )
    images.require(asked.split)
    if changes := changes_since_stage(asked.home.stage, images):
        context.console.warn(f"The images have changed since {asked.home.stage.folder}: {changes}.")
    return images


def _given(context: Context, network: SegmentPredictor, asked: Asked) -> SegmentationImages:
    """Open other images with masks, all of them or those of a test split of their own."""
    facts, seen = network.facts, network.seen
    column = asked.images.settings.image_column
    ignored = facts.ignored[0] if facts.ignored else -1
    pairs = open_pairs(asked.images.location, image_column=column, ignore=ignored)
    return SegmentationImages(
        pairs,
        in_channels=asked.images.in_channels,
        white=seen.white,
        access=SplitAccess({}, ("test",), {"mean": list(seen.mean), "std": list(seen.std)}),
        classes=classes_in(facts, pairs),
        ignore=ignored,
        strict=context.settings.strict,
        bar=context.console.bar,
        tested="test" if asked.split == "test" else "all",
    )


def classes_in(facts: SegmenterFacts, pairs: Pairs) -> Classes:
    """Return the network's classes, in its order, by their numbers in other masks.

    They are matched by name where the masks' classes are listed and the network's have names;
    otherwise numbers are those that it was trained on. Other numbers are left out.

    Raises:
        DataError: if the network knows none of the classes that are listed.
    """
    listed, names, values = pairs.classes, facts.classes, facts.values
    ignored = facts.ignored if listed is None else listed.ignored
    has_names = names != tuple(map(str, values))
    if listed is not None and listed.names == names:
        values = listed.values
    elif listed is not None and has_names:
        number = dict(zip(listed.names, listed.values, strict=True))
        if not number.keys() & set(names):
            raise DataError(
                f"{pairs.location}: the network knows none of its classes "
                f"({_named(listed.names)}): give masks of the classes that it knows "
                f"({_named(names)})."
            )
        values = tuple(number.get(name, NO_NUMBER - at) for at, name in enumerate(names))
    kept = tuple(value for value in ignored if value not in values)
    return Classes(values, names, kept, others_ignored=True)


def _outcome(
    context: Context, measured: Confusion, images: SegmentationImages, split: str
) -> dict[str, Any]:
    """Return the measurements, and say what was left out of them."""
    names, unknown = images.classes.names, images.unknown(split)
    absent = [name for name, there in zip(names, measured.present, strict=True) if not there]
    if absent:
        context.console.warn(
            f"{len(absent)} of {len(names)} classes do not occur in the masks and are left out of "
            f"the means: {_named(absent)}."
        )
    share = sum(unknown.values()) / (sum(unknown.values()) + int(measured.counts.sum()))
    if unknown:
        numbers = _named([str(value) for value in unknown])
        context.console.warn(
            f"{share:.1%} of the pixels are left out: the network does not know their classes "
            f"(numbers {numbers})."
        )
    summary = images.summary()
    if left_out := summary["num_unlabelled"] + summary["num_skipped"]:
        context.console.warn(f"{left_out:,} images have no mask or cannot be read: left out.")
    return {**measured.measures(), "absent": absent, "unknown_share": share}


def _write(
    context: Context,
    folder: Path,
    measured: Confusion,
    classes: tuple[str, ...],
    found: dict[str, Any],
) -> dict[str, Any]:
    """Write the results, and return those that the manifest repeats."""
    known = measured.per_class(classes)
    nothing = dict.fromkeys(HEADER[1:])
    rows = [{"class": name, **nothing, **known.get(name, {})} for name in classes]
    counts = measured.counts.tolist()
    write_json(folder / EVALUATION, found | {"per_class": rows, "confusion": counts})
    write_text(
        folder / "per_class.csv", csv_text(HEADER, ([row[key] for key in HEADER] for row in rows))
    )
    lines = ([name, *row] for name, row in zip(classes, counts, strict=True))
    write_text(folder / "confusion.csv", csv_text(["true \\ predicted", *classes], lines))
    try:
        pictures.draw_confusion(
            folder / "confusion.png", measured.counts, classes, counted="pixels"
        )
    except ConfigError as error:
        context.console.warn(f"{error} confusion.png was not drawn.")
    return found


def _named(names: Any) -> str:
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
