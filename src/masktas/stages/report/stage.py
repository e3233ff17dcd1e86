"""RUN -> report.html: what was done and found, from manifests, logs and pictures. No torch."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from types import ModuleType

from masktas.artifacts import Run
from masktas.errors import ArtifactError, ConfigError, require_extra
from masktas.files import write_text
from masktas.stages.common import charts
from masktas.stages.common.manifest import StageManifest
from masktas.stages.report.cost_section import cost_sections
from masktas.stages.report.evaluation_section import evaluation_sections
from masktas.stages.report.page import Reported, Section, anchors
from masktas.stages.report.search_section import search_sections
from masktas.stages.report.segmentation_section import segmentation_sections
from masktas.stages.report.training_section import (
    convergence_sections,
    picture_sections,
    training_sections,
)
from masktas.stages.report.transfer_section import transfer_sections
from masktas.stages.report.twins_section import twins_sections
from masktas.stages.report.validation_section import validation_sections

# In the order of the page. A function yields no section where the run has nothing to show.
SECTIONS: tuple[Callable[[Reported], Iterable[Section]], ...] = (
    transfer_sections,
    search_sections,
    segmentation_sections,
    evaluation_sections,
    twins_sections,
    validation_sections,
    picture_sections,
    training_sections,
    convergence_sections,
    cost_sections,
)


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

    The page runs only its own script, known by its digest (`report.js`), and loads nothing.

    Args:
        run: the run folder; unfinished stages are left out.
        beside: another run, whose supernet's convergence is drawn beside this one's, and whose
            networks are listed beside this one's as twins.

    Returns:
        The path of the report.

    Raises:
        ArtifactError: if no stage of the run is finished.
        ConfigError: if `beside` is no other folder.
    """
    jinja2, markupsafe = report_packages()
    folder = Run(Path(run))
    stages = folder.stages()
    if not stages:
        raise ArtifactError(f"{folder.folder}: no finished stage to report on.")
    if beside is not None and (not Path(beside).is_dir() or folder.folder.samefile(beside)):
        raise ConfigError(f"--beside {beside}: give another run folder to compare with.")
    reported = Reported(folder, None if beside is None else Run(Path(beside)))
    sections = [section for make in SECTIONS for section in make(reported)]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    script = _file("report.js")
    page = environment.from_string(_file("report.html")).render(
        name=folder.folder.resolve().name,
        location=StageManifest.read(stages[0]).location,
        sections=list(zip(sections, anchors(sections), strict=True)),
        script=markupsafe.Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(folder.report, page)
    return folder.report


def _file(name: str) -> str:
    return resources.files("masktas.stages.report").joinpath(name).read_text("utf-8")
