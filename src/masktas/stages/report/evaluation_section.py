"""The section of the report about the evaluations of a run's networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masktas.errors import ArtifactError
from masktas.files import read_json
from masktas.formats import shown
from masktas.stages.evaluate.manifest import EVALUATION, EvaluationManifest
from masktas.stages.report.page import Figure, Reported, Section, Table, Text, html, png

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
    if rows := found.get("per_class", []):
        yield Table(HEADER, [_cells(row) for row in rows])
        yield Text(html(PER_CLASS, folder.name), "note")
    alt = "Confusion matrix: true classes in rows, predicted classes in columns"
    if picture := png(folder / "confusion.png", alt):
        yield Figure(picture, CONFUSION, wide=True)
    mistakes = len(found.get("mistakes", ()))
    alt = "The most confident mistakes, each with its true and its predicted class"
    if mistakes and (picture := png(folder / "mistakes.png", alt)):
        yield Figure(picture, MISTAKES.format(mistakes), wide=True)


def _result(manifest: EvaluationManifest) -> Iterator[Text]:
    outcome = manifest.outcome
    if manifest.is_classifier:
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
    return text + f" {CALIBRATION}" if manifest.is_classifier else text


def _cells(row: dict[str, Any]) -> list[str]:
    shares = [row[key] for key in ("precision", "recall", "f1")]
    return [
        shown(row["class"]),
        f"{row['support']:,}",
        *("\u2013" if share is None else f"{100 * share:.1f}" for share in shares),
    ]
