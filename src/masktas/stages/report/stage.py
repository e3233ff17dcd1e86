"""RUN -> report.html: what was done and found, from manifests, logs and pictures. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from masktas.artifacts import SETTINGS, Run
from masktas.errors import ArtifactError, ConfigError
from masktas.files import read_json, write_text
from masktas.stages.common.manifest import StageManifest
from masktas.stages.report.cost_section import cost_sections
from masktas.stages.report.evaluation_section import evaluation_sections
from masktas.stages.report.page import Reported, Section
from masktas.stages.report.render import render, report_packages
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


def report(run: str | Path, *, beside: str | Path | None = None) -> Path:
    """Write `report.html` of a run folder: one file that needs no network.

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
    report_packages()
    reported = reported_of(run, beside)
    if not reported.run.stages():
        raise ArtifactError(f"{reported.run.folder}: no finished stage to report on.")
    sections = finished_sections(reported)
    page = render(reported.name, location_of(reported.run), sections)
    write_text(reported.run.report, page)
    return reported.run.report


def reported_of(run: str | Path, beside: str | Path | None) -> Reported:
    """Return what a report is about.

    Raises:
        ConfigError: if `beside` is no other folder.
    """
    folder = Path(run)
    if beside is not None and (
        not Path(beside).is_dir() or (folder.exists() and folder.samefile(beside))
    ):
        raise ConfigError(f"--beside {beside}: give another run folder to compare with.")
    return Reported(Run(folder), None if beside is None else Run(Path(beside)))


def finished_sections(reported: Reported) -> list[Section]:
    """Return the sections about the finished stages of a run, of which there is at least one."""
    return [section for make in SECTIONS for section in make(reported)]


def location_of(run: Run) -> str:
    """Return where the images of a run are; empty if no stage has begun."""
    if finished := run.stages():
        return StageManifest.read(finished[0]).location
    begun = run.unfinished()
    return str(read_json(begun[0].folder / SETTINGS)["images"]["location"]) if begun else ""
