"""The sections of the report about training: pictures, teacher, losses, convergence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from masktas.artifacts import MANIFEST, METRICS, Run, Stage
from masktas.errors import ArtifactError
from masktas.files import read_lines
from masktas.space import format_quantity
from masktas.stages.common import charts
from masktas.stages.report.page import Figure, Reported, Section, Text, chart, html, png
from masktas.stages.supernet.manifest import SupernetManifest
from masktas.stages.teacher.manifest import PretrainedSource, TeacherManifest

TITLES = {
    "teacher": "Teacher: masked autoencoder",
    "supernet": "Supernet: masked distillation",
    "supervised": "Supernet: trained with labels",
    "distill": "Distillation of one network",
    "finetune": "Fine-tuning",
    "segment": "Segmentation",
}
PROBED = ("smallest", "middle", "largest")  # networks that the legend names


def picture_sections(reported: Reported) -> Iterator[Section]:
    """Yield the pictures of what teacher and student reconstruct, and where the teacher is from."""
    run = reported.run
    if not run.has_source:
        return
    if run.supernet.finished:
        names = SupernetManifest.read(run.supernet).reconstructions
        alt = f"Held-out images, in rows: {', '.join(names)}"
        picture = png(run.supernet.folder / "reconstructions.png", alt)
        if picture is not None:
            split = "the source's validation split" if run.is_transfer else "the validation split"
            caption = (
                f"Images of {split}: the closer the lower rows are to the originals, "
                "the more the networks know of what was masked. They predict masked patches "
                "without their mean and contrast, which are taken from the original, as in MAE."
            )
            figure = Figure(picture, caption, wide=True, names=names)
            yield Section("What teacher and student see", [figure])
    if run.teacher.finished and (source := TeacherManifest.read(run.teacher).pretrained):
        yield _pretrained(source)


def _pretrained(source: PretrainedSource) -> Section:
    shape = ""
    if source.kind != "function":
        layer = "" if source.layer is None else f" (--teacher-layer {source.layer})"
        size = " x ".join(map(str, source.image_size))
        shape = (
            f", {source.embed_dim} wide, {source.depth} blocks{layer}; it sees {size} pixels in "
            f"patches of {source.patch_size}"
        )
    about = html(
        "Pretrained, not trained in this run: <code>{}</code>{}. "
        "Licence of its weights: <b>{}</b>.",
        source.source, shape, source.licence,
    )  # fmt: skip
    hidden = (
        ""
        if source.decoder
        else " It has no decoder, so the pictures do not show its reconstruction."
    )
    note = html("SHA-256 <code>{}</code>.{}", source.weights_sha256, hidden)
    return Section("The teacher", [Text(about), Text(note, "note")])


def training_sections(reported: Reported) -> Iterator[Section]:
    """Yield the curves of every training that was logged."""
    curves = [
        _curve(stage)
        for stage in reported.run.stages()
        if stage.name in TITLES and (stage.folder / METRICS).exists()
    ]
    if curves:
        yield Section("Training", curves)


def _curve(stage: Stage) -> Figure | Text:
    lines = read_lines(stage.folder / METRICS)
    if not charts.curves(lines):
        return Text(f"{_title(stage)}: {METRICS} holds no losses.", "note")
    return Figure(chart(charts.losses(lines)), course(lines), title=_title(stage))


def _title(stage: Stage) -> str:
    """Return the title of a training's curves."""
    if stage.name == "supernet" and SupernetManifest.read(stage).classes is not None:
        return TITLES["supervised"]
    named = stage.name in ("finetune", "segment", "distill")
    return TITLES[stage.name] + (f": {stage.folder.name}" if named else "")


def course(lines: list[dict[str, Any]]) -> str:
    """Say from where to where each curve goes, and where accuracies were highest.

    There must be one.
    """
    sentences = []
    for name in charts.curves(lines):
        points = [(line[name], line["epoch"]) for line in lines if name in line]
        what = name.replace("_", " ")
        if charts.is_share(name):
            best, epoch = max(points, key=lambda point: point[0])
            sentences.append(f"{what} is highest at epoch {epoch:.3g}: {best:.1%}")
        elif len(points) < 2:
            sentences.append(f"{what} is {points[0][0]:.4g}")
        else:
            sentences.append(f"{what} goes from {points[0][0]:.4g} to {points[-1][0]:.4g}")
    return f"{'; '.join(sentences)}.".capitalize()


def convergence_sections(reported: Reported) -> Iterator[Section]:
    """Yield how the probed networks of the supernet converge.

    Raises:
        ArtifactError: if another run is to be drawn beside this one, and one of them has no
            finished supernet with probes.
    """
    run, beside = reported.run, reported.beside
    runs = [(one.folder.resolve().name, _probes(one)) for one in (run, beside) if one is not None]
    found = [(name, lines) for name, lines in runs if lines]
    if beside is not None and len(found) < 2:
        raise ArtifactError(
            f"{beside.folder}: no finished supernet with probes to draw beside that of "
            f"{run.folder}, or none in {run.folder}: give two runs whose supernets are finished."
        )
    apart = ""
    if len(found) == 2 and not charts.probed([lines for _, lines in found]):
        apart = (
            f" The curves of {found[1][0]} are not drawn, because one of both supernets was "
            "trained with labels and nothing was measured of both; --probe-accuracy measures the "
            "same of either."
        )
        found = found[:1]
    if found:
        caption = _convergence(run, found) + apart
        figure = Figure(chart(charts.probes(found)), caption, wide=True)
        yield Section("How the supernet converges", [figure])


def _probes(run: Run) -> list[dict[str, Any]]:
    """Return the logged lines of a finished supernet if they have probes, else none."""
    if not run.has_source or not run.supernet.finished:
        return []
    lines = read_lines(run.supernet.folder / METRICS)
    return lines if charts.probed([lines]) else []


def _convergence(run: Run, found: list[tuple[str, list[dict[str, Any]]]]) -> str:
    params = SupernetManifest.read(run.supernet).probe_params
    if missing := [name for name in PROBED if name not in params]:
        raise ArtifactError(
            f"{run.supernet.folder / MANIFEST}: damaged, the probe {missing[0]!r} is missing. Run "
            "the stage again with --overwrite."
        )
    labelled = SupernetManifest.read(run.supernet).classes is not None
    measures = dict(charts.probed([lines for _, lines in found]))
    key = "rating" if "rating" in measures else next(iter(measures))
    title = measures[key].partition(" (")[0]
    values = [
        line[f"probe/largest/{key}"] for line in found[0][1] if f"probe/largest/{key}" in line
    ]
    sizes = ", ".join(f"{name} ({format_quantity(params[name])} parameters)" for name in PROBED)
    names = f" Solid: {found[0][0]}; dashed: {found[1][0]}." if len(found) > 1 else ""
    accuracy = (
        " The linear classifier is fitted to frozen features of one half of the images and tested "
        "on the other."
        if "accuracy" in measures
        else ""
    )
    return (
        "At every probe, the same networks are evaluated on the same held-out images"
        f"{'' if labelled else ' and masks'}: {sizes}, and eight random ones (grey). "
        f"The {title} of the largest goes from {values[0]:.4f} to {values[-1]:.4f}; flat "
        f"curves mean that more epochs change little.{accuracy}{names}"
    )
