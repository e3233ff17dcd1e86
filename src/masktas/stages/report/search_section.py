"""The section of the report about one search: its table and its charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masktas.artifacts import HISTORY, Stage, read_lines
from masktas.errors import require_extra
from masktas.space import Architecture
from masktas.stages.common import charts
from masktas.stages.common.manifest import FinetuneManifest, RefineManifest, SearchManifest
from masktas.stages.refine.table import HEADER, cells
from masktas.stages.search.table import ResultTable
from masktas.strategies import Evaluated

if TYPE_CHECKING:
    from markupsafe import Markup

RATINGS = {
    "consistency": "the label-free agreement with the teacher (equations 13 to 16)",
    "reconstruction": "the negative pixel loss of reconstructing masked images",
    "feature": "the negative loss of predicting the teacher's tokens",
    "fusion": "the fusion of two ranks, by agreement with the teacher and by pixel loss",
    "accuracy": "the accuracy of a linear classifier on the search images, from their labels",
    "head": "the accuracy of the head that all networks share, on the labelled search images",
    "knn": "the accuracy of nearest neighbours on the search images, from their labels",
    "params": "the number of parameters, nothing else",
    "macs": "the number of multiply-accumulates, nothing else",
}


@dataclass(frozen=True, slots=True)
class RefinementSection:
    """What the template shows of the refinement of a search.

    Attributes:
        manifest: of the refinement.
        header, cells: table of the networks of the last round.
        losses: chart of the held-out losses by round.
    """

    manifest: RefineManifest
    header: tuple[str, ...]
    cells: list[list[str]]
    losses: Markup

    @classmethod
    def of(cls, manifest: RefineManifest) -> RefinementSection:
        """Build the section of a finished refinement."""
        return cls(manifest, HEADER, cells(manifest), svg(charts.rounds(manifest)))

    @property
    def sizes(self) -> list[int]:
        """Number of networks in each round."""
        return [len(one["members"]) for one in self.manifest.rounds]


@dataclass(frozen=True, slots=True)
class SearchSection:
    """What the template shows of one search.

    Attributes:
        name: of the search.
        manifest: of the search.
        winner: of the refinement, or of the search if there is none.
        refinement: None if the search was not refined.
        table: the winner beside its baselines.
        rating: what the rating is, in words.
        target: what latency was measured on, in words; None without a latency model.
        scatter, progress, blocks: charts.
        front: chart of the front; None if the front is empty.
    """

    name: str
    manifest: SearchManifest
    winner: Evaluated
    refinement: RefinementSection | None
    table: ResultTable
    rating: str
    target: str | None
    scatter: Markup
    progress: Markup
    front: Markup | None
    blocks: Markup

    @property
    def architecture(self) -> Architecture:
        """The winner's."""
        return self.winner.architecture


def search_section(
    stage: Stage,
    finetuned: Sequence[FinetuneManifest],
    refinement: Stage,
    *,
    supervised: bool = False,
) -> SearchSection:
    """Build the section of a finished search.

    Args:
        stage: the search.
        finetuned: the fine-tunings of its run.
        refinement: of the search; it may be unfinished.
        supervised: whether the supernet was trained with labels.
    """
    manifest = SearchManifest.read(stage)
    history = read_lines(stage.folder / HISTORY)
    result = manifest.result
    refined = RefineManifest.read(refinement) if refinement.finished else None
    front = charts.front(result, manifest.objectives[0]) if result.front else None
    return SearchSection(
        name=stage.folder.name,
        manifest=manifest,
        winner=result.winner if refined is None else refined.winner.network,
        table=ResultTable.of(manifest, finetuned, refined=refined),
        refinement=None if refined is None else RefinementSection.of(refined),
        rating=RATINGS["head" if supervised and manifest.rating == "accuracy" else manifest.rating],
        target=_target(manifest.latency_target),
        scatter=svg(charts.candidates(history, manifest)),
        progress=svg(charts.progress(history)),
        front=None if front is None else svg(front),
        blocks=svg(
            charts.blocks((refined.winner.network if refined else result.winner).architecture)
        ),
    )


def _target(target: dict[str, Any] | None) -> str | None:
    """Describe what latency was measured on."""
    if target is None:
        return None
    own = target.get("command") or target.get("function")
    if own:
        return f"{target['engine']} {own}"
    threads = f", {target['threads']} threads" if target.get("threads") else ""
    how = f"{target['precision']}, batch of {target['batch']}"
    return f"{target['engine']} on {target['name']}{threads}, {how}"


def svg(chart: str) -> Markup:
    """Mark a chart as safe to insert: matplotlib has escaped the texts in it."""
    markup: Markup = require_extra("markupsafe", "report", "The report").Markup(chart)
    return markup
