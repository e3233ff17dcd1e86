"""The section of the report about the cost of a run: time, operations, images and their readers."""

from __future__ import annotations

from collections.abc import Iterator

from masktas.artifacts import Run, Stage
from masktas.formats import format_flops, format_seconds
from masktas.stages.common.manifest import SearchManifest, StageManifest
from masktas.stages.evaluate.manifest import EvaluationManifest
from masktas.stages.report.page import Reported, Section, Table, Text, html
from masktas.stages.supernet.manifest import SupernetManifest
from masktas.stages.validate.manifest import ValidationManifest

NONE = "–"
SPLITS = ("supernet", "search", "validation", "test")
COSTS = (
    "stage", "time", "images seen", "operations", "share of peak", "device", "seed", "labels used",
)  # fmt: skip


def cost_sections(reported: Reported) -> Iterator[Section]:
    """Yield what each stage took, and which images it has read."""
    stages = [(stage, StageManifest.read(stage)) for stage in reported.run.stages()]
    last_stage, last = stages[-1]
    speed = format_flops(last.cost.peak_flops)
    yield Section(
        "Cost of the run",
        [
            Table(COSTS, [_cost(stage, manifest, reported.run) for stage, manifest in stages]),
            Text(
                "Operations are those of matrix products, forward and backward. The peak is the "
                f"speed of a large matrix product on the same device ({speed} per second in "
                f"{_path(last_stage, reported.run)}). The time includes evaluation and drawing.",
                "note",
            ),
        ],
    )
    yield _images(reported.run, stages[0][1], last)


def _path(stage: Stage, run: Run) -> str:
    return str(stage.folder.relative_to(run.folder))


def _cost(stage: Stage, manifest: StageManifest, run: Run) -> list[str]:
    """Return a row of the table of costs."""
    cost = manifest.cost
    attempts = f" in {cost.attempts} attempts" if cost.attempts > 1 else ""
    processes = f"{cost.processes} x " if cost.processes > 1 else ""
    return [
        _path(stage, run),
        format_seconds(cost.seconds) + attempts,
        f"{cost.images:,}",
        format_flops(cost.flops) if cost.flops else NONE,
        f"{cost.share_of_peak:.1%}" if cost.flops else NONE,
        f"{processes}{cost.name} ({cost.precision})",
        str(manifest.seed),
        _labels_used(stage),
    ]


def _labels_used(stage: Stage) -> str:
    """Say whether a stage has read labels."""
    used = stage.name in ("finetune", "segment", "evaluate")
    if stage.name == "validate":
        used = ValidationManifest.read(stage).probe is not None
    elif stage.name == "supernet":
        supernet = SupernetManifest.read(stage)
        if supernet.classes is None and supernet.probe_accuracy:
            return "to watch only"
        used = supernet.classes is not None
    elif stage.name == "search":
        used = SearchManifest.read(stage).rating in ("accuracy", "knn")
    return "yes" if used else "no"


def _images(run: Run, first: StageManifest, last: StageManifest) -> Section:
    images = first.images
    rows = [
        [name, f"{images.splits[name].images:,}", images.splits[name].digest, ", ".join(readers)]
        for name, readers in _readers(run, first.location).items()
    ]
    duplicates = (
        f"; {images.duplicates} copies of other images are in the same split as the original"
        if images.duplicates
        else ""
    )
    skipped = (
        f"; {images.num_skipped} files could not be read and were skipped, the first is "
        f"{images.skipped[0]}"
        if images.skipped
        else ""
    )
    versions = ", ".join(f"{package} {version}" for package, version in last.versions.items())
    rows = [[name, count, html("<code>{}</code>", digest), by] for name, count, digest, by in rows]
    return Section(
        "Images",
        [
            Table(["split", "images", "digest", "read by"], rows),
            Text(
                f"Splits are disjoint by content{duplicates}{skipped}. Made with {versions}.",
                "note",
            ),
        ],
    )


def _has_search(run: Run) -> bool:
    """Return whether a run is more than segmenters, and evaluations of them."""
    return any(stage.name not in ("segment", "evaluate") for stage in run.stages())


def _planned(run: Run) -> dict[str, list[str]]:
    """Return what reads each split from teacher to fine-tuning."""
    refined = ["refinement"] if run.named("refine") else []
    distilled = ["distillation"] if run.named("distill") else []
    trained = [] if run.is_transfer else ["teacher", "supernet"]
    watched = [] if run.is_transfer else ["probes", "pictures"]
    return {
        "supernet": [*trained, *refined, *distilled, "fine-tuning"],
        "search": ["search", *refined, "fine-tuning"],
        "validation": [*watched, "validation during fine-tuning"],
        "test": ["final test of fine-tuning"],
    }


def _readers(run: Run, location: str) -> dict[str, list[str]]:
    """Return what has read, or would read, the images of each split of a location."""
    readers = _planned(run) if _has_search(run) else {name: [] for name in SPLITS}
    for stage in run.named("segment"):
        if StageManifest.read(stage).location == location:
            name = f"segment/{stage.folder.name}"
            for split in SPLITS:
                readers[split].append(f"final test of {name}" if split == "test" else name)
    for stage in run.named("validate"):
        manifest = ValidationManifest.read(stage)
        for split in ["search", *(["supernet", manifest.split] if manifest.probe else [])]:
            readers[split].append(f"validate/{stage.folder.name}")
    for stage in run.named("evaluate"):
        evaluated = EvaluationManifest.read(stage)
        if evaluated.split in readers and evaluated.location == location:
            learnt = ["supernet"] if evaluated.kind == "probe" else []
            for split in [*learnt, evaluated.split]:
                readers[split].append(f"evaluate/{stage.folder.name}")
    return readers
