"""RUN -> report.html: what was done and found, from manifests, logs and pictures. No torch."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from masktas.artifacts import METRICS, Run, Stage, read_lines, write_text
from masktas.errors import ArtifactError, require_extra
from masktas.formats import format_flops, format_seconds
from masktas.space import format_quantity
from masktas.stages.common import charts
from masktas.stages.report.search_section import searched

if TYPE_CHECKING:
    from markupsafe import Markup

ROWS = ["original", "masked", "teacher", "student (largest)"]
STAGE_WORDS = {
    "teacher": "Teacher: masked autoencoder",
    "supernet": "Supernet: masked distillation",
    "finetune": "Fine-tuning",
}


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
        run: the run folder; what is not finished yet is left out.
        beside: another run, whose supernet's probes are drawn beside this one's.

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
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "quantity": format_quantity,
        "duration": format_seconds,
        "operations": format_flops,
    }
    template = resources.files("masktas.stages.report").joinpath("report.html").read_text("utf-8")
    page = environment.from_string(template).render(
        name=folder.folder.resolve().name,
        validations=[_validation(stage) for stage in folder.named("validate")],
        readers=_readers(folder),
        searches=[searched(stage, folder) for stage in folder.named("search")],
        curves=[
            _curve(stage)
            for stage in stages
            if stage.name in STAGE_WORDS and (stage.folder / METRICS).exists()
        ],
        adopted=_adopted(folder.teacher),
        probes=_probes(folder, None if beside is None else Run(Path(beside))),
        reconstructions=_picture(folder.supernet.folder / "reconstructions.png"),
        pictured=_pictured(folder.supernet),
        costs=[_cost(stage, folder) for stage in stages],
        images=stages[0].manifest()["images"],
        location=stages[0].manifest()["settings"]["images"]["location"],
        versions=stages[-1].manifest()["versions"],
    )
    write_text(folder.report, page)
    return folder.report


def _validation(stage: Stage) -> dict[str, Any]:
    """Return one validation as the template shows it."""
    manifest = stage.manifest()
    return {
        "name": stage.folder.name,
        "verdict": manifest["verdict"],
        "tables": manifest["tables"],
        "scatter": _picture(stage.folder / "scatter.png"),
        "probe": manifest["probe"],
        "split": manifest["settings"]["settings"]["split"],
        "probed": manifest["settings"]["settings"]["probe_images"],
    }


def _readers(run: Run) -> dict[str, list[str]]:
    """Return what has read, or would read, the images of each split."""
    readers = {
        "supernet": ["teacher", "supernet", "fine-tuning"],
        "search": ["search", "fine-tuning"],
        "validation": ["probes", "pictures", "watching fine-tuning"],
        "test": ["the last number of fine-tuning"],
    }
    for stage in run.named("validate"):
        manifest = stage.manifest()
        read = ["search"]
        if manifest["probe"]:
            read += ["supernet", manifest["settings"]["settings"]["split"]]
        for split in read:
            name = f"validate/{stage.folder.name}"
            readers[split] = [*readers[split], name]
    return readers


def _probes(run: Run, beside: Run | None) -> dict[str, Any] | None:
    """Return the picture of the supernet's probes, if there were any, and its legend."""
    runs = []
    for one in (run, beside):
        if one is not None and one.supernet.finished:
            lines = read_lines(one.supernet.folder / METRICS)
            if any("probe/largest/rating" in line for line in lines):
                runs.append((one.folder.resolve().name, lines))
    if beside is not None and len(runs) < 2:
        raise ArtifactError(
            f"{beside.folder}: no finished supernet with probes there to put beside that of "
            f"{run.folder} (or none here)."
        )
    if not runs:
        return None
    networks = run.supernet.manifest().get("probes", {})
    return {
        "picture": _svg(charts.probes(runs)),
        "sizes": [(name, networks[name]["params"]) for name in ("smallest", "middle", "largest")],
        "names": [name for name, _ in runs],
    }


def _curve(stage: Stage) -> dict[str, Any]:
    title = STAGE_WORDS[stage.name]
    if stage.name == "finetune":
        title = f"{title}: {stage.folder.name}"
    lines = read_lines(stage.folder / METRICS)
    return {"title": title, "picture": _svg(charts.losses(lines))}


def _cost(stage: Stage, run: Run) -> dict[str, Any]:
    manifest = stage.manifest()
    return {
        "stage": str(stage.folder.relative_to(run.folder)),
        "seconds": manifest["cost"]["seconds"],
        "images": manifest["cost"]["images"],
        # what manifests of the first days did not have
        "flops": manifest["cost"].get("flops"),
        "share": manifest["cost"].get("share_of_peak", 0),
        "peak": manifest["cost"].get("peak_flops", 0),
        "processes": manifest["cost"].get("processes", 1),
        "attempts": manifest["cost"].get("attempts", 1),
        "device": f"{manifest['cost']['name']} ({manifest['cost']['precision']})",
        "seed": manifest["settings"]["seed"],
        "labels": "yes" if _saw_labels(stage.name, manifest) else "no",
    }


def _saw_labels(stage: str, manifest: dict[str, Any]) -> bool:
    rating = manifest["settings"].get("settings", {}).get("rating")
    probed = bool(manifest.get("probe"))
    return stage == "finetune" or probed or rating in ("accuracy", "knn")


def _adopted(teacher: Stage) -> dict[str, Any] | None:
    """Return what a manifest tells of a teacher that was trained elsewhere."""
    found = teacher.manifest().get("adopted") if teacher.finished else None
    if not found:
        return None
    height, width = found["image_size"]
    return {**found, "pixels": f"{height} x {width}"}


def _pictured(supernet: Stage) -> list[str]:
    """Return what the rows of the picture show; manifests of the first days do not tell."""
    manifest = supernet.manifest() if supernet.finished else {}
    return manifest.get("reconstructions") or ROWS


def _picture(path: Path) -> str | None:
    if not path.exists():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _svg(text: str) -> Markup:
    markup: Markup = report_packages()[1].Markup(text)  # matplotlib has escaped the text in it
    return markup
