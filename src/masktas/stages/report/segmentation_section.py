"""The section of the report about segmenters: measures, costs, classes, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from masktas.formats import format_target, shown
from masktas.space import format_amount, format_quantity
from masktas.stages.common import charts
from masktas.stages.report.examples_figure import class_keys, examples_figure
from masktas.stages.report.page import Figure, Reported, Section, Table, Text, chart, html
from masktas.stages.segment.manifest import SegmentManifest

if TYPE_CHECKING:
    from markupsafe import Markup

MANY = 40  # classes above which only those with the lowest and the highest IoU are drawn
MEASURES = ("miou", "pixel_accuracy", "class_accuracy")
COMPARED = (
    "segmenter", "start", "patch", "backbone", "its MACs", "mIoU", "pixels right",
    "mean over classes",
)  # fmt: skip
SEEDS = (
    "In percent, on the test split. Segmenters that differ by their seed only are one row, with "
    "mean and standard deviation. Start: weights of the backbone before; MACs are for one crop."
)
HEADER = ("class", "training pixels", "test pixels", "IoU", "accuracy")
PER_CLASS = (
    "In percent, on the test split at the size of the images. IoU: pixels of a class that are "
    "found, of all that are of the class or said to be. A dash: the class does not occur in the "
    "test masks and is left out of the means."
)
BARS = "IoU of each class on the test split, {}in the order of its share of the pixels."
PICTURES = (
    "Validation images. From left to right: the image, its mask, what the segmenter finds. Black "
    "pixels of a mask are ignored."
)


def segmentation_sections(reported: Reported) -> Iterator[Section]:
    """Yield a section for each segmenter; its curves are with those of other trainings.

    Before them one that compares them, if there are several.

    Raises:
        ArtifactError: if a file of a segmenter is damaged.
    """
    made = {stage.folder: SegmentManifest.read(stage) for stage in reported.run.named("segment")}
    if len(made) > 1:
        yield _comparison(made)
    for folder, manifest in made.items():
        yield Section(f"Segmentation: {folder.name}", _parts(folder, manifest))


def _comparison(made: Mapping[Path, SegmentManifest]) -> Section:
    """Return a table of all segmenters, the best first; those that differ by seed are one row."""
    groups: dict[str, list[Path]] = {}
    for folder, one in made.items():
        groups.setdefault(one.but_for_seed, []).append(folder)

    def measured(folders: list[Path], name: str) -> list[float]:
        return [100 * getattr(made[folder], name) for folder in folders]

    ranked = sorted(groups.values(), key=lambda folders: -fmean(measured(folders, "miou")))
    rows = []
    for folders in ranked:
        one = made[folders[0]]
        rows.append(
            [
                shown(", ".join(folder.name for folder in folders)),
                one.init,
                f"{one.patch_size}",
                format_quantity(one.backbone.params),
                format_quantity(one.backbone.macs),
                *(_spread(measured(folders, name)) for name in MEASURES),
            ]
        )
    return Section("Segmenters compared", [Table(COMPARED, rows), Text(SEEDS, "note")])


def _spread(values: list[float]) -> str:
    text = f"{fmean(values):.2f}"
    return f"{text} ± {stdev(values):.2f}" if len(values) > 1 else text


def _parts(folder: Path, manifest: SegmentManifest) -> list[Text | Table | Figure]:
    tested = manifest.images.splits["test"].images
    values = (manifest.miou, manifest.pixel_accuracy, manifest.class_accuracy)
    lead = html(
        "<b>{} % mIoU</b>, {} % of the pixels right, {} % as a mean over classes, on {:,} test "
        "images.",
        *(f"{100 * value:.2f}" for value in values), tested,
    )  # fmt: skip
    named = dict(zip(manifest.classes, class_keys(len(manifest.classes)), strict=True))
    return [
        Text(lead, "lead"),
        Text(_about(manifest), "note"),
        *_costs(manifest),
        *examples_figure(folder, manifest.classes, PICTURES),
        _bars(manifest, named),
        Table(HEADER, [_cells(name, manifest) for name in manifest.classes]),
        Text(PER_CLASS, "note"),
    ]


def _about(manifest: SegmentManifest) -> Markup:
    counts = {name: one.images for name, one in manifest.images.splits.items()}
    absent = ""
    if manifest.absent:
        absent = f" Not in the test masks: {', '.join(map(shown, manifest.absent))}."
    return html(
        "Images: <code>{}</code>, {:,} to train on, {:,} for validation. The weights are those of "
        "the best epoch by validation, {} of {} ({:.2f} % mIoU there).{}",
        manifest.location, counts["supernet"] + counts["search"], counts["validation"],
        manifest.best_epoch, manifest.epochs, 100 * manifest.validation_miou, absent,
    )  # fmt: skip


def _costs(manifest: SegmentManifest) -> Iterator[Text | Table]:
    """Yield parameters, operations and times of backbone and decoder apart."""
    parts = {"backbone": manifest.backbone, f"decoder ({manifest.decoder_name})": manifest.decoder}
    rows = [
        [name, format_quantity(one.params), format_quantity(one.macs)]
        for name, one in parts.items()
    ]
    totals = (sum(one.params for one in parts.values()), sum(one.macs for one in parts.values()))
    rows.append(["both", *(format_quantity(total) for total in totals)])
    size = " x ".join(map(str, manifest.image_size))
    header = ["part", "parameters", f"MACs for {size} pixels"]
    times = [one.latency_ms for one in parts.values() if one.latency_ms is not None]
    if len(times) == len(parts):
        header.append("latency")
        for row, time in zip(rows, [*times, sum(times)], strict=True):
            row.append(format_amount("latency", time))
    yield Table(header, rows)
    if manifest.latency_target is not None:
        where = format_target(manifest.latency_target)
        yield Text(html("Latency of one inference: {}.", where), "note")


def _bars(manifest: SegmentManifest, colors: dict[str, str]) -> Figure:
    """Draw the IoU of the classes that occur, the most frequent first."""
    ious = {name: one["iou"] for name, one in manifest.per_class.items()}
    few = ""
    if len(ious) > MANY:
        order = sorted(ious, key=lambda name: ious[name])
        kept = {*order[: MANY // 2], *order[-MANY // 2 :]}
        ious = {name: iou for name, iou in ious.items() if name in kept}
        few = f"the {MANY // 2} lowest and the {MANY // 2} highest of {len(order)}, "
    ordered = sorted(ious, key=lambda name: -manifest.per_class[name]["share"])
    picture = charts.class_bars({name: ious[name] for name in ordered}, colors)
    return Figure(chart(picture), BARS.format(few), wide=True)


def _cells(name: str, manifest: SegmentManifest) -> list[str]:
    one = manifest.per_class.get(name)
    found = [None] * 3 if one is None else [one[key] for key in ("share", "iou", "accuracy")]
    shares = [manifest.pixel_shares.get(name), *found]
    return [shown(name), *("\u2013" if share is None else f"{100 * share:.1f}" for share in shares)]
