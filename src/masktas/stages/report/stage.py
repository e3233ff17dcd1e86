"""RUN -> report.html: what was done and found, from manifests, logs and pictures. No torch."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from masktas.artifacts import MANIFEST, METRICS, Run, Stage, read_lines, write_text
from masktas.errors import ArtifactError, require_extra
from masktas.formats import format_flops, format_seconds
from masktas.space import format_quantity
from masktas.stages.common import charts
from masktas.stages.common.manifest import (
    FinetuneManifest,
    PretrainedSource,
    SearchManifest,
    StageManifest,
    SupernetManifest,
    TeacherManifest,
    ValidationManifest,
)
from masktas.stages.evaluate.manifest import EvaluationManifest
from masktas.stages.report.evaluation_section import evaluation_section
from masktas.stages.report.search_section import search_section, svg

TITLES = {
    "teacher": "Teacher: masked autoencoder",
    "supernet": "Supernet: masked distillation",
    "finetune": "Fine-tuning",
}
PROBED = ("smallest", "middle", "largest")  # networks that the legend names


def report_packages() -> tuple[ModuleType, ModuleType]:
    """Import jinja2 and markupsafe, and see that matplotlib is there too.

    Raises:
        ConfigError: if one of them is not installed.
    """
    charts.matplotlib("figure")
    jinja2, markupsafe = (
        require_extra(one, "report", "The report") for one in ("jinja2", "markupsafe")
    )
    return jinja2, markupsafe


def report(run: str | Path, *, beside: str | Path | None = None) -> Path:
    """Write `report.html` of a run folder: one file that needs no network.

    Args:
        run: the run folder; unfinished stages are left out.
        beside: another run, whose supernet's convergence is drawn beside this one's.

    Returns:
        The path of the report.

    Raises:
        ArtifactError: if no stage of the run is finished.
    """
    jinja2, _ = report_packages()
    folder = Run(Path(run))
    stages = folder.stages()
    if not stages:
        raise ArtifactError(f"{folder.folder}: no finished stage to report on.")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "quantity": format_quantity,
        "duration": format_seconds,
        "operations": format_flops,
    }
    template = resources.files("masktas.stages.report").joinpath("report.html").read_text("utf-8")
    first, last = (StageManifest.read(stage) for stage in (stages[0], stages[-1]))
    finetuned = [FinetuneManifest.read(stage) for stage in folder.named("finetune")]
    supernet = SupernetManifest.read(folder.supernet) if folder.supernet.finished else None
    page = environment.from_string(template).render(
        name=folder.folder.resolve().name,
        searches=[
            search_section(stage, finetuned, folder.refine(stage.folder.name))
            for stage in folder.named("search")
        ],
        evaluations=evaluation_section(folder, environment),
        validations=[_validation(stage) for stage in folder.named("validate")],
        readers=_readers(folder, first.location),
        curves=_curves(stages),
        pretrained=_pretrained(folder.teacher),
        probes=_probes(folder, supernet, None if beside is None else Run(Path(beside))),
        reconstructions=_picture(folder.supernet.folder / "reconstructions.png")
        if supernet
        else None,
        picture_rows=supernet.reconstructions if supernet else (),
        costs=[_cost(stage, folder) for stage in stages],
        images=first.images,
        location=first.location,
        versions=last.versions,
    )
    write_text(folder.report, page)
    return folder.report


def _validation(stage: Stage) -> dict[str, Any]:
    """Return one validation as the template shows it."""
    return {
        "name": stage.folder.name,
        "manifest": ValidationManifest.read(stage),
        "scatter": _picture(stage.folder / "scatter.png"),
    }


def _readers(run: Run, location: str) -> dict[str, list[str]]:
    """Return what has read, or would read, the images of each split of a location."""
    refined = ["refinement"] if run.named("refine") else []
    readers = {
        "supernet": ["teacher", "supernet", *refined, "fine-tuning"],
        "search": ["search", *refined, "fine-tuning"],
        "validation": ["probes", "pictures", "validation during fine-tuning"],
        "test": ["final test of fine-tuning"],
    }
    for stage in run.named("validate"):
        manifest = ValidationManifest.read(stage)
        for split in ["search", *(["supernet", manifest.split] if manifest.probe else [])]:
            readers[split].append(f"validate/{stage.folder.name}")
    for stage in run.named("evaluate"):
        evaluated = EvaluationManifest.read(stage)
        if evaluated.split in readers and evaluated.location == location:
            learnt = [] if evaluated.is_classifier else ["supernet"]
            for split in [*learnt, evaluated.split]:
                readers[split].append(f"evaluate/{stage.folder.name}")
    return readers


def _probes(
    run: Run, supernet: SupernetManifest | None, beside: Run | None
) -> dict[str, Any] | None:
    """Return the chart of the supernet's convergence, if it was probed, and its legend."""
    runs = []
    for one in (run, beside):
        if one is not None and one.supernet.finished:
            lines = read_lines(one.supernet.folder / METRICS)
            if any("probe/largest/rating" in line for line in lines):
                runs.append((one.folder.resolve().name, lines))
    if beside is not None and len(runs) < 2:
        raise ArtifactError(
            f"{beside.folder}: no finished supernet with probes to draw beside that of "
            f"{run.folder}, or none in {run.folder}: give two runs whose supernets are finished."
        )
    if not runs or supernet is None:
        return None
    if missing := [name for name in PROBED if name not in supernet.probe_params]:
        raise ArtifactError(
            f"{run.supernet.folder / MANIFEST}: damaged, the probe {missing[0]!r} is missing. Run "
            "the stage again with --overwrite."
        )
    return {
        "chart": svg(charts.probes(runs)),
        "sizes": [(name, supernet.probe_params[name]) for name in PROBED],
        "names": [name for name, _ in runs],
    }


def _curves(stages: list[Stage]) -> list[dict[str, Any]]:
    """Return title and chart of every training that was logged."""
    trained = [one for one in stages if one.name in TITLES and (one.folder / METRICS).exists()]
    return [
        {
            "title": TITLES[one.name] + (f": {one.folder.name}" * (one.name == "finetune")),
            "chart": svg(charts.losses(read_lines(one.folder / METRICS))),
        }
        for one in trained
    ]


def _cost(stage: Stage, run: Run) -> dict[str, Any]:
    """Return a row of the table of costs."""
    manifest = StageManifest.read(stage)
    return {
        "stage": str(stage.folder.relative_to(run.folder)),
        "cost": manifest.cost,
        "seed": manifest.seed,
        "labels": "yes" if _used_labels(stage) else "no",
    }


def _used_labels(stage: Stage) -> bool:
    """Say whether a stage has read labels."""
    if stage.name == "validate":
        return ValidationManifest.read(stage).probe is not None
    if stage.name == "search":
        return SearchManifest.read(stage).rating in ("accuracy", "knn")
    return stage.name in ("finetune", "evaluate")


def _pretrained(teacher: Stage) -> PretrainedSource | None:
    """Return where the teacher comes from, if this run did not train it."""
    return TeacherManifest.read(teacher).pretrained if teacher.finished else None


def _picture(path: Path) -> str | None:
    """Return a picture as a data address, so that the page is one file."""
    if not path.exists():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
