"""The section of the report about the evaluations of a run's networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masktas.errors import ArtifactError
from masktas.files import read_json
from masktas.formats import shown
from masktas.stages.evaluate.manifest import EVALUATION, SUMMARY, EvaluationManifest
from masktas.stages.report.examples_figure import examples_figure
from masktas.stages.report.page import Figure, Reported, Section, Table, Text, html, png

SEGMENTED = ("class", "share of pixels", "IoU", "accuracy")
SEGMENTED_NOTE = (
    "In percent. IoU: pixels of a class that are found, of all that are of the class or said to "
    "be. Accuracy: share of the pixels of a class that are found. A dash: the class does not occur "
    "in the masks and is left out of the means. File: <code>evaluate/{}/per_class.csv</code>."
)
HEADER = ("class", "images", "precision", "recall", "F1")
CALIBRATION = (
    "The calibration error is the mean distance between confidence and accuracy in 15 bins of "
    "equal width: 0 means that of the images said to be 80 % sure, 80 % are right."
)
PER_CLASS = (
    "In percent. Recall: share of the images of a class that are found. Precision: share of the "
    "images said to be of a class that are. Low recall with high precision: the class is said too "
    "rarely. File: <code>evaluate/{}/per_class.csv</code>."
)
CONFUSION = (
    "Rows are true classes, columns what the network says; each row sums to 100 %. Dark cells "
    "beside the diagonal are classes that are taken for each other."
)
WORST = (
    "The images with the lowest mean IoU over the classes of their masks, the lowest first. From "
    "left to right: the image, its mask, what the segmenter finds. Black pixels of a mask are "
    "ignored."
)
MISTAKES = (
    "The {:,} wrong answers that the network is most sure of, the surest first: the true class "
    "above what it said. Look for wrong labels, images of several things, and what the images of "
    "one mistake have in common."
)


def evaluation_sections(reported: Reported) -> Iterator[Section]:
    """Yield a section for each evaluation.

    Raises:
        ArtifactError: if a file of an evaluation is damaged.
    """
    for stage in reported.run.named("evaluate"):
        path = stage.folder / EVALUATION
        found = read_json(path)
        try:
            parts = list(_parts(stage.folder, EvaluationManifest.read(stage), found))
        except (AttributeError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path}: damaged ({error}). Evaluate again with --overwrite."
            ) from None
        yield Section(f"Evaluation: {stage.folder.name}", parts)


def _parts(
    folder: Path, manifest: EvaluationManifest, found: dict[str, Any]
) -> Iterator[Text | Table | Figure]:
    yield from _result(manifest)
    yield Text(_about(manifest, dict(found.get("unknown_classes", {}))), "note")
    segmented = manifest.kind == "segmenter"
    if rows := found.get("per_class", []):
        cells = _segmented_cells if segmented else _cells
        yield Table(SEGMENTED if segmented else HEADER, [cells(row) for row in rows])
        yield Text(html(SEGMENTED_NOTE if segmented else PER_CLASS, folder.name), "note")
    if segmented:
        yield from examples_figure(folder, [str(row["class"]) for row in rows], WORST)
    alt = "Confusion matrix: true classes in rows, predicted classes in columns"
    if picture := png(folder / "confusion.png", alt):
        yield Figure(picture, CONFUSION, wide=True)
    mistakes = len(found.get("mistakes", ()))
    alt = "The most confident mistakes, each with its true and its predicted class"
    if mistakes and (picture := png(folder / "mistakes.png", alt)):
        yield Figure(picture, MISTAKES.format(mistakes), wide=True)


def _result(manifest: EvaluationManifest) -> Iterator[Text]:
    outcome = manifest.outcome
    if manifest.kind == "segmenter":
        miou, pixels, mean = (f"{100 * outcome[key]:.2f}" for key in SUMMARY["segmenter"])
        yield Text(
            html(
                "<b>{} % mIoU</b>, {} % of the pixels right, {} % as a mean over classes, on {:,} "
                "images.",
                miou, pixels, mean, outcome["num_images"],
            ),
            "lead",
        )  # fmt: skip
        return
    if manifest.kind == "classifier":
        top1, top5, mean = (
            f"{100 * outcome[key]:.2f}" for key in ("top1", "top5", "mean_per_class")
        )
        yield Text(
            html(
                "<b>{} % top-1</b>, {} % top-5, {} % as a mean over classes, on {:,} images; "
                "expected calibration error {:.3f}.",
                top1, top5, mean, outcome["num_images"], outcome["calibration_error"],
            ),
            "lead",
        )  # fmt: skip
        return
    yield Text(
        html(
            "Linear probe <b>{:.2f} % top-1</b>, 20 nearest neighbours {:.2f} %, of frozen "
            "features; {:,} labelled images to learn from, {:,} to test on.",
            100 * outcome["linear"]["top1"], 100 * outcome["knn"]["top1"], outcome["num_learnt"],
            outcome["num_images"],
        ),
        "lead",
    )  # fmt: skip
    yield Text(outcome["caveat"], "note")


def _about(manifest: EvaluationManifest, unknown: dict[str, int]) -> str:
    """Say what was evaluated on what, and what a reader has to know of it."""
    split = "all" if manifest.split == "all" else f"split {manifest.split}"
    text = html(
        "Network: <code>{}</code>. Images: <code>{}</code>, {}.",
        manifest.network, manifest.location, split,
    )  # fmt: skip
    if manifest.readings and manifest.readings > 1:
        before = manifest.readings - 1
        text += (
            f" The test split had been read {before:,} {'time' if before == 1 else 'times'} for "
            "this network before, so this number must not be used to choose between networks."
        )
    if unknown:
        text += (
            f" {sum(unknown.values()):,} images of {len(unknown):,} classes that the network does "
            "not know were left out."
        )
    if manifest.kind == "segmenter" and manifest.outcome["unknown_share"]:
        text += (
            f" {manifest.outcome['unknown_share']:.1%} of the pixels are of classes that the "
            "network does not know, and were left out."
        )
    return text + f" {CALIBRATION}" if manifest.kind == "classifier" else text


def _cells(row: dict[str, Any]) -> list[str]:
    shares = _percent(row, "precision", "recall", "f1")
    return [shown(row["class"]), f"{row['support']:,}", *shares]


def _segmented_cells(row: dict[str, Any]) -> list[str]:
    return [shown(row["class"]), *_percent(row, "share", "iou", "accuracy")]


def _percent(row: dict[str, Any], *keys: str) -> list[str]:
    return ["\u2013" if row[key] is None else f"{100 * row[key]:.1f}" for key in keys]
