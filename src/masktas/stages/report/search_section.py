"""The sections of the report about a search: its result, the winner's blocks, the search itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masktas.artifacts import HISTORY, Run, Stage
from masktas.files import read_lines
from masktas.formats import counted
from masktas.space import Architecture, format_quantity
from masktas.stages.common import charts
from masktas.stages.common.manifest import FinetuneManifest, RefineManifest, SearchManifest
from masktas.stages.report.explorer import Points, explorer
from masktas.stages.report.page import Bullets, Figure, Reported, Section, Table, Text, chart, html
from masktas.stages.report.refine_section import refinement_section
from masktas.stages.search.table import ResultTable, alike_to_first, is_kept
from masktas.stages.supernet.manifest import SupernetManifest
from masktas.strategies import Evaluated

if TYPE_CHECKING:
    from markupsafe import Markup

RATINGS = {
    "consistency": "the label-free agreement with the teacher (equations 13 to 16)",
    "projected": "the same agreement, of the tokens that are projected to the teacher's width",
    "alignment": "the label-free alignment of token similarities with the teacher's",
    "reconstruction": "the negative pixel loss of reconstructing masked images",
    "feature": "the negative loss of predicting the teacher's tokens",
    "fusion": "the fusion of two ranks, by agreement with the teacher and by pixel loss",
    "accuracy": "the accuracy of a linear classifier on the search images, from their labels",
    "head": "the accuracy of the head that all networks share, on the labelled search images",
    "knn": "the accuracy of nearest neighbours on the search images, from their labels",
    "params": "the number of parameters, nothing else",
    "macs": "the number of multiply-accumulates, nothing else",
}
BASELINES = (
    "“Winner ahead by” is the difference of two ratings, computed image by image. “Largest "
    "uniform” is the largest network within the budget whose blocks are all alike; “best uniform” "
    "is the best of these by the rating, and “house shape” is what is usual without a search: "
    "finest patches, MLP ratio 4, as many heads as the width holds, a common depth, and the "
    "largest width within the budget. Random networks are drawn from the candidates, and as many "
    "as the search has rated for the best of random search. A winner that is not clearly ahead of "
    "these baselines has not been shown to be better."
)


@dataclass(frozen=True, slots=True)
class Found:
    """A finished search and what came after it.

    Attributes:
        name: of the search.
        search: its manifest.
        refined: manifest of its refinement; None if it was not refined.
        table: the winner beside its baselines.
        history: lines of the rated candidates.
        finetuned: name and manifest of the run's fine-tunings that the table compares.
        supervised: whether labels trained the supernet.
    """

    name: str
    search: SearchManifest
    refined: RefineManifest | None
    table: ResultTable
    history: list[dict[str, Any]]
    finetuned: list[tuple[str, FinetuneManifest]]
    supervised: bool

    @classmethod
    def of(cls, stage: Stage, run: Run) -> Found:
        """Read a finished search of a run; its refinement may be unfinished."""
        alone = [one.folder for one in run.named("distill")]
        finetuned: dict[bool, list[tuple[str, FinetuneManifest]]] = {True: [], False: []}
        for one in run.named("finetune"):
            tuned = FinetuneManifest.read(one)
            # a network that was distilled alone may have the architecture of a baseline
            if not any(tuned.started_in(one.folder, folder) for folder in alone):
                finetuned[is_kept(one.folder.name)].append((one.folder.name, tuned))
        refinement = run.refine(stage.folder.name)
        search = SearchManifest.read(stage)
        refined = RefineManifest.read(refinement) if refinement.finished else None
        name = stage.folder.name
        finetuned[False].sort(key=lambda pair: _order(pair[0], pair[1], name))
        own, kept = ([one for _, one in finetuned[which]] for which in (False, True))
        table = ResultTable.of(search, own, kept=kept, refined=refined)
        alike = {id(one) for one in alike_to_first(search, own, refined)}
        compared = [pair for pair in finetuned[False] if id(pair[1]) in alike]
        supervised = (
            not run.is_transfer  # of a supernet trained without labels
            and run.supernet.finished
            and SupernetManifest.read(run.supernet).classes is not None
        )
        history = read_lines(stage.folder / HISTORY)
        return cls(name, search, refined, table, history, compared, supervised)

    @property
    def rating(self) -> str:
        """What the rating is, in words."""
        heads = self.supervised and self.search.rating == "accuracy"
        return RATINGS["head" if heads else self.search.rating]

    @property
    def winner(self) -> Evaluated:
        """The winner of the refinement, or of the search if there is none."""
        return self.search.result.winner if self.refined is None else self.refined.winner.network


def _order(name: str, tuned: FinetuneManifest, search: str) -> tuple[bool, bool]:
    """Order fine-tunings: from the refinement of a search first, and `main` before others."""
    return tuned.refined not in (search, None), name != "main"


def search_sections(reported: Reported) -> Iterator[Section]:
    """Yield the sections of every finished search, and of its refinement."""
    run = reported.run
    searches = run.named("search")
    for stage in searches:
        found = Found.of(stage, run)
        of = f": {found.name}" if len(searches) > 1 else ""
        yield _result(found, of)
        yield _blocks(found, of)
        yield _search(found, of)
        if found.refined is not None:
            yield refinement_section(found.refined, found.name, of)


def _result(found: Found, of: str) -> Section:
    search, table = found.search, found.table
    verdicts = table.verdicts()
    latency = _target(search.latency_target)
    notes = [
        f"The rating is {found.rating}; higher is better. All networks are rated on the "
        "same held-out images and masks. ± is one standard error over the images, or one standard "
        "deviation over the networks where several are averaged.",
        BASELINES if len(table.rows) > 1 else "",
        "Latency is the time of one inference, measured and as predicted by the latency model: "
        f"{latency}."
        if latency
        else "",
        "All fine-tuned networks follow the same recipe; their accuracies are measured once, on "
        "the test split."
        if table.has_accuracies
        else "",
    ]
    return Section(
        f"Result{of}",
        [
            Text(_lead(found), "lead"),
            Table(table.header(), table.cells(), winner=True),
            *([Bullets(verdicts)] if verdicts else []),
            Text(" ".join(note for note in notes if note), "note"),
        ],
    )


def _lead(found: Found) -> str:
    search, winner, first = found.search, found.winner, found.table.rows[0]
    accuracy = html(", <b>{} % top-1</b> on the test split", first.top1) if first.finetuned else ""
    return html(
        "Budget {}: <b>{} parameters</b>, <b>{} MACs</b>{}. This is {} of {:,} rated networks{}, "
        "out of {:,} that meet the budget{}.",
        search.limits,
        format_quantity(winner.costs["params"]),
        format_quantity(winner.costs["macs"]),
        accuracy,
        "the winner of a refinement of the best" if found.refined else "the best",
        search.rated,
        " and of uniform baselines" if found.refined else "",
        search.feasible,
        ""
        if winner.measured_latency is None
        else " by predicted latency; it also meets the budget by measured latency",
    )


def _blocks(found: Found, of: str) -> Section:
    one = found.winner.architecture
    rows = [
        [str(value) for value in (number, heads, heads * one.head_dim, ratio, width)]
        for number, (heads, ratio, width) in enumerate(
            zip(one.num_heads, one.mlp_ratio, one.mlp_dim, strict=True), start=1
        )
    ]
    header = ["block", "heads", "q/k/v width", "MLP ratio", "MLP width"]
    folder = "refine" if found.refined else "search"
    about = html(
        "Embedding width {}, head width {}, patches of {} x {} pixels. "
        "File: <code>{}/{}/architecture.json</code>.",
        one.embed_dim, one.head_dim, one.patch_size, one.patch_size, folder, found.name,
    )  # fmt: skip
    return Section(
        f"The winner, block by block{of}",
        [
            Figure(chart(charts.blocks(one)), _widths(one), wide=True),
            Table(header, rows),
            Text(about, "note"),
        ],
    )


def _widths(one: Architecture) -> str:
    """Say which blocks have most heads and the widest MLPs."""

    def extremes(values: Sequence[float], what: str) -> str:
        if min(values) == max(values):
            return f"{what} is the same in all blocks"
        widest, narrowest = (values.index(choose(values)) + 1 for choose in (max, min))
        return f"{what} is widest in block {widest} and narrowest in block {narrowest}"

    return (
        "Channels of each block, beside the embedding width (dashed): "
        f"{extremes(one.num_heads, 'attention')}; {extremes(one.mlp_dim, 'the MLP')}."
    )


def _search(found: Found, of: str) -> Section:
    search, history = found.search, found.history
    points = Points(history)
    points.note(search.result, found.winner)
    points.add_accuracies(found.finetuned)
    figures = [Figure(chart(charts.candidates(history, search)), "Rating against cost.")]
    if search.result.front:
        front = chart(charts.front(search.result, search.objectives[0]))
        figures.append(Figure(front, "The front. Bars are one standard error of the rating."))
    caption = html("{} {}", _rank(found), _front(found))
    return Section(
        f"The search{of}",
        [
            explorer(
                f"search/{found.name}", points, search.budget, figures=figures, caption=caption
            ),
            Figure(chart(charts.progress(history)), _progress(history), wide=True),
        ],
    )


def _front(found: Found) -> Markup:
    """Say what the front of the search is, and where it is stored."""
    search = found.search
    if not search.result.front:
        return html("")
    return html(
        "The search ended with a front of {} in rating, {}: no rated network is better than one of "
        "these in all of them. Files: <code>search/{}/front.json</code>, <code>front.csv</code>.",
        counted(len(search.result.front), "network"),
        ", ".join(search.objectives),
        found.name,
    )


def _rank(found: Found) -> str:
    """Say where the winner of the search is among the rated networks."""
    winner = found.search.result.winner
    ratings = [line["rating"] for line in found.history if line["complete"]]
    below = sum(rating < winner.rating for rating in ratings)
    return (
        "Each point is a rated network; higher is better, and further left is cheaper. The winner "
        f"of the search is rated {winner.rating:.4f} with "
        f"{format_quantity(winner.costs['params'])} parameters: "
        f"above {below:,} of the {len(ratings):,} networks that were rated on all images."
    )


def _progress(history: list[dict[str, Any]]) -> str:
    """Say how the best rating has risen, and when it has done so last."""
    best = [value for value in charts.best_so_far(history) if math.isfinite(value)]
    if not best:
        return "Each network in the order of the search; none was rated on all images."
    last = len(history) - len(best) + best.index(best[-1]) + 1
    return (
        f"Each network in the order of the search. The best rating rose from {best[0]:.4f} to "
        f"{best[-1]:.4f}, which was reached after {last:,} of {len(history):,} networks."
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
