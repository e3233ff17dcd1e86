"""The chart of a search's networks: its data, and the same as figures and a table.

The data, JSON types, hold the `axes` to choose from, the `limits` of the budget, the names of the
`kinds` of marked networks, and the `networks`: their values by axis, with their errors, their
fine-tunings and their shape.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from masktas.space import QUANTITIES, Architecture, Budget, format_amount
from masktas.stages.common import charts
from masktas.stages.common.manifest import FinetuneManifest, SearchResult
from masktas.stages.report.page import Explorer, Figure, Table
from masktas.stages.search.table import BASELINES, NONE, genes
from masktas.strategies import Evaluated

MOST = 1000  # networks that are drawn beside those that are marked or on the front
FORMS = {"params": "count", "macs": "count", "latency": "ms", "size": "bytes", "memory": "bytes"}
KINDS = {
    "winner": "winner",
    "best": "best so far",
    "searched": "winner of the search",
    **BASELINES,
    "random": "random",
}
MEASURED = "measured_latency"


@dataclass(slots=True)
class Point:
    """A network of the chart.

    Attributes:
        architecture: of the network.
        values: its rating, costs and accuracy, by axis.
        errors: what the table has behind ±, where it is known: the standard error of a rating, the
            standard deviation of several accuracies.
        name, origin: the place of the network in the search, and how it was drawn.
        complete: whether it was rated on all images.
        marks: the kinds of marked networks that it is, and `labels`, their names.
        finetuned: name and accuracy of its fine-tunings.
        on_front: whether it is on the front of the search.
    """

    architecture: Architecture
    values: dict[str, float]
    errors: dict[str, float]
    name: str
    origin: str = ""
    complete: bool = True
    marks: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    finetuned: list[tuple[str, float]] = field(default_factory=list)
    on_front: bool = False

    @property
    def is_special(self) -> bool:
        """Whether more is known of it than that it was rated."""
        return bool(self.marks or self.finetuned or self.on_front)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types; numbers that are not counts in 6 digits."""
        one = self.architecture
        return {
            "name": self.name,
            "origin": self.origin,
            "marks": self.marks,
            "labels": self.labels,
            "complete": self.complete,
            "values": {key: _short(value) for key, value in self.values.items()},
            "errors": {key: _short(value) for key, value in self.errors.items()},
            "finetuned": [[name, _short(top1)] for name, top1 in self.finetuned],
            "shape": {
                "width": one.embed_dim,
                "patch": one.patch_size,
                "head": one.head_dim,
                "heads": list(one.num_heads),
                "ratios": list(one.mlp_ratio),
                "mlp": list(one.mlp_dim),
            },
        }


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


class Points:
    """The networks of a search, each once, whatever it is."""

    def __init__(self, history: Sequence[Mapping[str, Any]]) -> None:
        self.all: dict[tuple[object, ...], Point] = {}
        for number, line in enumerate(history, start=1):
            architecture = Architecture.from_dict(line["architecture"])
            error = line["error"]
            self.all[genes(architecture)] = Point(
                architecture,
                {"rating": line["rating"]} | {key: line[key] for key in QUANTITIES if key in line},
                {"rating": error} if error else {},
                name=f"network {number:,}",
                origin=line["origin"],
                complete=line["complete"],
            )

    def of(self, network: Evaluated, name: str) -> Point:
        """Return the point of an evaluated network, with the name if it is a new one."""
        values = {"rating": network.rating, **network.costs}
        errors = {"rating": network.error} if network.error else {}
        new = Point(network.architecture, values, errors, name)
        point = self.all.setdefault(genes(network.architecture), new)
        if network.measured_latency is not None:
            point.values[MEASURED] = network.measured_latency
        return point

    def mark(self, network: Evaluated, kind: str, label: str) -> None:
        """Mark a network as one of a kind."""
        point = self.of(network, label)
        point.marks.append(kind)
        point.labels.append(label)

    def note(self, result: SearchResult, winner: Evaluated) -> None:
        """Mark the winner, that of the search if it is another one, and the baselines."""
        self.mark(winner, "winner", KINDS["winner"])
        if genes(winner.architecture) != genes(result.winner.architecture):
            self.mark(result.winner, "searched", KINDS["searched"])
        for name, one in result.baselines.items():
            kind = name if name in BASELINES else "random"
            self.mark(one, kind, BASELINES.get(name, name.replace("-", " ")))
        for one in result.front:
            self.of(one, "network of the front").on_front = True
        for place, one in enumerate(result.top[1:], start=2):
            self.of(one, f"{place}. best").on_front = True

    def note_best(self) -> None:
        """Mark the best network of a search that is not finished."""
        complete = [one for one in self.all.values() if one.complete]
        if complete:
            best = max(complete, key=lambda one: one.values["rating"])
            best.marks.append("best")
            best.labels.append(KINDS["best"])

    def add_accuracies(self, finetuned: Iterable[tuple[str, FinetuneManifest]]) -> None:
        """Add the accuracies of fine-tunings that inherit their weights; others are ignored."""
        for name, one in finetuned:
            point = self.all.get(genes(one.architecture))
            if point is None or one.init != "inherit":
                continue
            point.finetuned.append((name, one.top1))
            accuracies = [top1 for _, top1 in point.finetuned]
            point.values["top1"] = statistics.fmean(accuracies)
            if len(accuracies) > 1:
                point.errors["top1"] = statistics.stdev(accuracies)

    def drawn(self) -> list[Point]:
        """Return the networks to draw: the winner first, of plain ones at most `MOST`."""
        order = list(KINDS)
        special = [one for one in self.all.values() if one.is_special]
        special.sort(key=lambda one: order.index(one.marks[0]) if one.marks else len(order))
        plain = [one for one in self.all.values() if not one.is_special]
        step = max(1, -(-len(plain) // MOST))
        return special + plain[::step]


def explorer(
    name: str, points: Points, budget: Budget, *, figures: Sequence[Figure], caption: str
) -> Explorer:
    """Return the chart of the networks of a search.

    Args:
        name: of the chart.
        points: the networks, at least one.
        budget: its limits are drawn, and its first quantity is the first axis to choose.
        figures: what stands in for it where no script runs.
        caption: what to see in it.
    """
    drawn = points.drawn()
    keys = {key for one in drawn for key in one.values}
    limited = budget.limited()
    costs = sorted((one for one in QUANTITIES if one in keys), key=lambda one: one not in limited)
    across = [{"key": one, "label": charts.COST_WORDS[one], "form": FORMS[one]} for one in costs]
    if MEASURED in keys:
        label = f"{charts.COST_WORDS['latency']}, measured"
        across.append({"key": MEASURED, "label": label, "form": "ms"})
    up = [{"key": "rating", "label": "rating", "form": "rating"}]
    if "top1" in keys:
        up.append({"key": "top1", "label": "top-1 accuracy", "form": "share"})
    data = {
        "axes": {"x": across, "y": up},
        "limits": {
            one: [limit for limit in budget.limits(one) if limit is not None] for one in limited
        },
        "kinds": KINDS,
        "networks": [one.to_dict() for one in drawn],
    }
    missing = len(points.all) - len(drawn)
    note = f" {missing:,} of the {len(points.all):,} are left out of it, evenly." if missing else ""
    return Explorer(name, data, figures, _table(drawn, costs), caption + note)


def _table(drawn: Sequence[Point], costs: Sequence[str]) -> Table:
    """Return the marked networks, and those of the front, in numbers."""
    accuracy = any(one.finetuned for one in drawn)
    rows = []
    for one in (point for point in drawn if point.is_special):
        top1 = f"{100 * one.values['top1']:.2f}" if one.finetuned else NONE
        amounts = [
            format_amount(key, one.values[key]) if key in one.values else NONE for key in costs
        ]
        shape = [one.architecture.embed_dim, one.architecture.depth, one.architecture.patch_size]
        rows.append(
            [
                ", ".join(one.labels) or (f"{one.name} (front)" if one.on_front else one.name),
                f"{one.values['rating']:.4f}",
                *amounts,
                *([top1] if accuracy else []),
                *map(str, shape),
            ]
        )
    heads = {"macs": "MACs", "latency": "predicted latency"}
    header = ["network", "rating", *(heads.get(one, one) for one in costs)]
    header += [*(["top-1 %"] if accuracy else []), "width", "blocks", "patch"]
    return Table(header, rows, title="These networks in numbers")
