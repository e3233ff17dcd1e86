"""The sections of the report about validations: whether ratings rank networks as accuracy does."""

from __future__ import annotations

from collections.abc import Iterator

from masktas.artifacts import Stage
from masktas.stages.report.page import Figure, Reported, Section, Table, Text, png
from masktas.stages.validate.manifest import ValidationManifest

READING = (
    "Brackets: 95 % bootstrap interval over the networks. The ceiling is the agreement that a "
    "perfect rating would reach, given the noise of the measured accuracy. Points lost, top k: "
    "accuracy of the best network minus the best accuracy among the k networks with the highest "
    "rating, in percentage points. Points gained: what the best of N networks by a rating is "
    "expected to be better than a random one, rho times the expected largest of N normal numbers "
    "times the true standard deviation."
)


def validation_sections(reported: Reported) -> Iterator[Section]:
    """Yield a section for every finished validation."""
    stages = reported.run.named("validate")
    for stage in stages:
        yield _validation(stage, f" validate/{stage.folder.name}" if len(stages) > 1 else "")


def _validation(stage: Stage, of: str) -> Section:
    found = ValidationManifest.read(stage)
    picture = png(stage.folder / "scatter.png", "Each rating against accuracy, one point a network")
    tables = [Table(one["header"], one["rows"], title=one["title"]) for one in found.tables]
    return Section(
        f"Do ratings rank networks as accuracy does?{of}",
        [
            Text(found.verdict, "lead"),
            *([Text(found.difference, "lead")] if found.difference else []),
            *tables,
            *([Figure(picture, _caption(found), wide=True)] if picture else []),
            *([Text(READING, "note")] if picture else []),
        ],
    )


def _caption(found: ValidationManifest) -> str:
    known = {name: tau for name, tau in found.taus.items() if tau is not None}
    best = max(known, key=lambda name: known[name], default=None)
    which = f" Kendall's tau is highest for {best}, {known[best]:.2f}." if best else ""
    probe = "fine-tuning" if found.probe == "finetune" else f"{found.probe} probe"
    images = f"{found.probe_images:,} labelled images" if found.probe_images else "labelled images"
    return (
        "Each rating against accuracy, a point for each network: the closer to a rising line, the "
        f"better the rating ranks.{which} Accuracy: {probe} on {images}, measured on the "
        f"{found.split} split; lines join the seeds of one network."
    )
