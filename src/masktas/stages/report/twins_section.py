"""The section of the report about twins: networks that were found or made otherwise (SPEC 9).

A label-free search, a supervised search and hand-made networks that were distilled alone, each with
what it cost before fine-tuning and how accurate it is after it. No torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from masktas.artifacts import Run, Stage
from masktas.formats import format_flops
from masktas.space import format_quantity
from masktas.stages.common.manifest import (
    FinetuneManifest,
    RefineManifest,
    SearchManifest,
    StageManifest,
)
from masktas.stages.distill.manifest import DistillManifest
from masktas.stages.report.page import Reported, Section, Table, Text
from masktas.stages.supernet.manifest import SupernetManifest

HEADER = (
    "network", "run", "params", "MACs", "images seen", "operations", "labels", "top-1 %",
)  # fmt: skip
NONE = "\u2013"


@dataclass(frozen=True, slots=True)
class Twin:
    """A network, and what it took to find and train it before fine-tuning.

    Attributes:
        name: how it was found or made.
        run: name of its run.
        params, macs: its costs.
        images: number of images that training has seen.
        flops: operations of training, search and refinement.
        labels: whether these used labels.
        top1: accuracy on the test split after each fine-tuning, as a share.
    """

    name: str
    run: str
    params: float
    macs: float
    images: int
    flops: int
    labels: bool
    top1: tuple[float, ...]

    def cells(self) -> list[str]:
        """Return the row of the table, under `HEADER`."""
        accuracy = [100 * one for one in self.top1]
        shown = f"{statistics.fmean(accuracy):.2f}" if accuracy else NONE
        if len(accuracy) > 1:
            shown += f" ± {statistics.stdev(accuracy):.2f}"
        return [
            self.name,
            self.run,
            format_quantity(self.params),
            format_quantity(self.macs),
            f"{self.images:,}",
            format_flops(self.flops),
            "yes" if self.labels else "no",
            shown,
        ]


def twins_sections(reported: Reported) -> Iterator[Section]:
    """Yield the table of twins, of the run beside this one too, if there are two to compare."""
    runs = [run for run in (reported.run, reported.beside) if run is not None]
    twins = [twin for run in runs for twin in _twins(run)]
    if len(twins) < 2:
        return
    note = (
        "Costs are those before fine-tuning: of training the supernet or the one network, of the "
        "search and of the refinement; the teacher's pre-training is not counted. Images seen are "
        "those of training. Accuracies are those of fine-tunings that start from these weights, "
        "mean and standard deviation where there are several."
    )
    table = Table(HEADER, [twin.cells() for twin in twins])
    yield Section("Twins: found or made otherwise", [table, Text(note, "note")])


def _twins(run: Run) -> list[Twin]:
    finetuned = [(stage.folder, FinetuneManifest.read(stage)) for stage in run.named("finetune")]
    found = run.has_source and run.supernet.finished and run.search().finished
    searched = [_searched(run, finetuned)] if found else []
    return searched + [_distilled(run, stage, finetuned) for stage in run.named("distill")]


def _searched(run: Run, finetuned: Sequence[tuple[Path, FinetuneManifest]]) -> Twin:
    """Return the winner of `search/main`, or of its refinement."""
    search, refine = run.search(), run.refine()
    labels = SupernetManifest.read(run.supernet).classes is not None
    stages, winner = [run.supernet, search], SearchManifest.read(search).result.winner
    if refine.finished:
        stages, winner = [*stages, refine], RefineManifest.read(refine).winner.network
    costs = [StageManifest.read(stage).cost for stage in stages]
    return Twin(
        name="searched with labels" if labels else "searched without labels",
        run=_name(run),
        params=winner.costs["params"],
        macs=winner.costs["macs"],
        images=sum(one.images for stage, one in zip(stages, costs, strict=True) if stage != search),
        flops=sum(one.flops for one in costs),
        labels=labels,
        top1=accuracies_from(finetuned, stages[-1].folder),
    )


def _distilled(run: Run, stage: Stage, finetuned: Sequence[tuple[Path, FinetuneManifest]]) -> Twin:
    """Return a network that was distilled alone."""
    manifest = DistillManifest.read(stage)
    equal = "" if manifest.equal is None else f", equal {manifest.equal}"
    return Twin(
        name=f"distill/{stage.folder.name}: distilled alone{equal}",
        run=_name(run),
        params=manifest.params,
        macs=manifest.macs,
        images=manifest.cost.images,
        flops=manifest.cost.flops,
        labels=False,
        top1=accuracies_from(finetuned, stage.folder),
    )


def _name(run: Run) -> str:
    return run.folder.resolve().name


def accuracies_from(
    finetuned: Sequence[tuple[Path, FinetuneManifest]], start: Path
) -> tuple[float, ...]:
    """Return the accuracies of fine-tunings that started from the weights in a folder.

    Of those with one recipe, which alone can be averaged: that of `main`, or of the first.
    """
    mine = [(folder.name, one) for folder, one in finetuned if one.started_in(folder, start)]
    mine.sort(key=lambda pair: pair[0] != "main")
    return tuple(one.top1 for _, one in mine if one.recipe == mine[0][1].recipe)
