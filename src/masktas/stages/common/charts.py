"""Charts of the report and of a search, as inline SVG. Never imports torch."""

from __future__ import annotations

import io
import itertools
import math
from types import ModuleType
from typing import TYPE_CHECKING, Any

from masktas.errors import require_extra
from masktas.space import Architecture
from masktas.stages.common.manifest import RefineManifest, SearchManifest, SearchResult
from masktas.strategies import Evaluated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, ACCENT, FAINT = "#1d2733", "#c2410c", "#94a3b8"
PALETTE = (ACCENT, "#0f766e", "#4338ca", "#64748b")

COST_WORDS = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "latency": "milliseconds of one inference",
    "size": "bytes of weights",
    "memory": "bytes of activations",
}
NO_LOSS = ("step", "epoch", "lr", "grad_norm")
PROBED = (("smallest", "#0f766e"), ("middle", "#4338ca"), ("largest", ACCENT))
MEASURES = (
    ("pixel_loss", "pixel loss"),
    ("feature_loss", "feature loss"),
    ("rating", "rating (higher is better)"),
    ("cross_entropy", "cross-entropy"),
    ("top1", "accuracy of the shared head"),
    ("accuracy", "accuracy of a linear classifier"),
)


def matplotlib(part: str = "") -> ModuleType:
    """Import matplotlib, or a part of it; a ConfigError says how to install it."""
    name = f"matplotlib.{part}" if part else "matplotlib"
    return require_extra(name, "report", "Drawing a chart")


def losses(lines: list[dict[str, Any]]) -> str:
    """Draw every logged number against epochs; shares (accuracies) on an axis of their own."""
    figure, axes = _figure()
    names = curves(lines)
    shares = [name for name in names if is_share(name)]
    other = axes.twinx() if shares else axes
    for color, name in zip(PALETTE * 3, names, strict=False):
        points = [(line["epoch"], line[name]) for line in lines if name in line]
        where = other if name in shares else axes
        where.plot(
            [epoch for epoch, _ in points],
            [value for _, value in points],
            color=color,
            linewidth=1.6,
            linestyle="--" if name in shares else "-",
            marker="o" if len(points) < 2 else None,
            label=name.replace("_", " "),
        )
    if shares:
        other.set_ylim(0, 1)
        other.set_ylabel("accuracy", color=INK)
        other.spines[["top"]].set_visible(False)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    _legend(figure)
    return _save(figure)


def curves(lines: list[dict[str, Any]]) -> list[str]:
    """Return the names of the logged numbers that `losses` draws."""
    names = dict.fromkeys(key for line in lines for key in line)
    return [name for name in names if name not in NO_LOSS and "/" not in name]


def is_share(name: str) -> bool:
    """Say whether a logged number is an accuracy, from 0 to 1."""
    return name.endswith(("top1", "top5", "miou", "accuracy"))


def probed(runs: list[list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """Return the measures, and their titles, that the logged probes of all supernets have."""
    return [
        one
        for one in MEASURES
        if all(any(f"probe/largest/{one[0]}" in line for line in lines) for lines in runs)
    ]


def probes(runs: list[tuple[str, list[dict[str, Any]]]]) -> str:
    """Draw the convergence of a supernet: one panel for each measure, one line for each network.

    Args:
        runs: name and logged lines of one run, or of several to compare: solid lines for the
            first, dashed lines for the others. Random networks (thin, grey) only of the first.
            Measures that not all of them have are left out.
    """
    measures = probed([lines for _, lines in runs])
    size = (max(5.4, 3.6 * len(measures)), 3.4)
    figure = matplotlib("figure").Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for panel, (measure, title) in zip(panels, measures, strict=True):
        _dress(panel)
        for number, (name, lines) in enumerate(runs):
            watched = [line for line in lines if f"probe/largest/{measure}" in line]
            epochs = [line["epoch"] for line in watched]
            randoms = {key for line in watched for key in line if key.startswith("probe/random-")}
            for key in sorted(randoms) if not number else []:
                if key.endswith(f"/{measure}"):
                    panel.plot(epochs, [line[key] for line in watched], color=FAINT, linewidth=0.7)
            for network, color in PROBED:
                panel.plot(
                    epochs,
                    [line[f"probe/{network}/{measure}"] for line in watched],
                    color=color,
                    linewidth=1.7,
                    linestyle="--" if number else "-",
                    marker="o",
                    markersize=2.5,
                    label=_plain(f"{network}, {name}") if len(runs) > 1 else network,
                )
        panel.set_xlabel("epoch")
        panel.set_title(title, fontsize="medium", color=INK)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=6, frameon=False, fontsize="small"
    )
    return _save(figure)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would read mathematics in the names of folders


def candidates(history: list[dict[str, Any]], search: SearchManifest) -> str:
    """Draw the rating of every rated candidate against its cost, with budget and baselines.

    The cost is the first one that the budget limits, else the parameters.
    """
    limited, result = search.budget.limited(), search.result
    cost = next((name for name in limited if all(name in entry for entry in history)), "params")
    figure, axes = _figure()
    axes.scatter(
        [entry[cost] for entry in history],
        [entry["rating"] for entry in history],
        color=FAINT,
        s=14,
        alpha=0.75,
        linewidths=0,
        label="rated",
    )
    limits = [value for value in search.budget.limits(cost) if value is not None]
    for number, value in enumerate(limits):
        label = None if number else "budget"
        axes.axvline(value, color=INK, linestyle=":", label=label)
    marks = [
        ("random", result.random, "x", INK, 36),
        *((label, [one], sign, color, 44) for label, one, sign, color in _shapes(result)),
        ("winner", [result.winner], "*", ACCENT, 190),
    ]
    for label, networks, marker, color, size in marks:
        axes.scatter(
            [one.costs[cost] for one in networks],
            [one.rating for one in networks],
            marker=marker,
            color=color,
            s=size,
            label=label,
        )
    axes.xaxis.set_major_formatter(matplotlib("ticker").EngFormatter(sep=""))
    axes.set_xlabel(COST_WORDS[cost])
    axes.set_ylabel("rating (higher is better)")
    _legend(figure)
    return _save(figure)


def _shapes(result: SearchResult) -> list[tuple[str, Evaluated, str, str]]:
    """List the baselines of simple shape: label, network, marker and colour of each."""
    marks = (
        ("house shape", result.house, "^", "#b45309"),
        ("largest uniform", result.uniform, "s", "#4338ca"),
        ("best uniform", result.best_uniform, "D", "#be185d"),
    )
    return [(label, one, sign, color) for label, one, sign, color in marks if one is not None]


def front(result: SearchResult, cost: str) -> str:
    """Draw the front, rating against a cost, with winner and baselines.

    Bars are one standard error of the rating over images. Latency is the measured one where there
    is one, else the predicted one.
    """
    figure, axes = _figure()

    def at(one: Evaluated) -> float:
        measured = one.measured_latency if cost == "latency" else None
        return float(one.costs[cost] if measured is None else measured)

    members = sorted(result.front, key=at)
    axes.errorbar(
        [at(one) for one in members],
        [one.rating for one in members],
        yerr=[one.error or 0 for one in members],
        color="#0f766e",
        linewidth=1.4,
        elinewidth=0.7,
        marker="o",
        markersize=3,
        label="front",
    )
    marks = [
        ("best of random search", result.random_search, "x", INK, 40),
        *((label, one, sign, color, 44) for label, one, sign, color in _shapes(result)),
        ("winner", result.winner, "*", ACCENT, 190),
    ]
    for label, one, marker, color, size in marks:
        if one:
            axes.scatter(
                [at(one)],
                [one.rating],
                marker=marker,
                color=color,
                s=size,
                label=label,
                zorder=3,
            )
    if cost != "latency":
        axes.xaxis.set_major_formatter(matplotlib("ticker").EngFormatter(sep=""))
    axes.set_xlabel(COST_WORDS[cost])
    axes.set_ylabel("rating (higher is better)")
    _legend(figure)
    return _save(figure)


def progress(history: list[dict[str, Any]]) -> str:
    """Draw each candidate's rating in the order of the search, and the best so far."""
    figure, axes = _figure(width=8.6)
    best = best_so_far(history)
    origins = dict.fromkeys(["random", *(entry["origin"] for entry in history)])
    for origin, color in zip(origins, itertools.cycle((FAINT, *PALETTE[1:])), strict=False):
        mine = [(n, e["rating"]) for n, e in enumerate(history, 1) if e["origin"] == origin]
        if mine:
            axes.scatter(
                [number for number, _ in mine],
                [rating for _, rating in mine],
                color=color,
                s=10,
                alpha=0.7,
                linewidths=0,
                label=origin,
            )
    axes.plot(range(1, len(best) + 1), best, color=ACCENT, linewidth=1.8, label="best so far")
    axes.set_xlabel("networks rated")
    axes.set_ylabel("rating (higher is better)")
    _legend(figure)
    return _save(figure)


def best_so_far(history: list[dict[str, Any]]) -> list[float]:
    """Return the best rating up to each candidate, without those that racing has dropped.

    The rating of a dropped candidate is an estimate from a part of the images.
    """
    complete = [entry["rating"] if entry["complete"] else -math.inf for entry in history]
    return list(itertools.accumulate(complete, max))


def rounds(refined: RefineManifest) -> str:
    """Draw the held-out feature loss of each network by round of a refinement."""
    figure, axes = _figure(width=8.6)
    names = [one["name"] for one in refined.rounds[0]["members"]]
    for name in sorted(names, key=lambda name: name == refined.winner.name):  # the winner on top
        losses = [
            (record["round"], one["feature_loss"])
            for record in refined.rounds
            for one in record["members"]
            if one["name"] == name
        ]
        won, baseline = name == refined.winner.name, not name.startswith("candidate-")
        axes.plot(
            [number for number, _ in losses],
            [loss for _, loss in losses],
            color=ACCENT if won else "#4338ca" if baseline else FAINT,
            linewidth=2.2 if won else 1.0,
            marker="o",
            markersize=3,
            label=f"winner ({name})" if won else None,
        )
    axes.plot([], [], color="#4338ca", label="baselines")
    axes.plot([], [], color=FAINT, label="candidates")
    axes.set_xticks(range(1, len(refined.rounds) + 1))
    axes.set_xlabel("round")
    axes.set_ylabel("held-out feature loss")
    _legend(figure)
    return _save(figure)


def blocks(one: Architecture) -> str:
    """Draw the width of attention and MLP of each block of an architecture."""
    figure, axes = _figure(width=7.2, height=2.4)
    numbers = range(1, one.depth + 1)
    axes.bar(
        [number - 0.2 for number in numbers],
        [heads * one.head_dim for heads in one.num_heads],
        width=0.4,
        color="#0f766e",
        label="q/k/v width",
    )
    axes.bar(
        [number + 0.2 for number in numbers],
        one.mlp_dim,
        width=0.4,
        color="#4338ca",
        label="MLP width",
    )
    axes.axhline(one.embed_dim, color=ACCENT, linestyle="--", label="embed dim")
    axes.set_xticks(list(numbers))
    axes.set_xlabel("block")
    axes.set_ylabel("channels")
    _legend(figure)
    return _save(figure)


def class_bars(values: dict[str, float], colors: dict[str, str]) -> str:
    """Draw a share for each class, from 0 to 1, in the order and the colours given."""
    figure, axes = _figure(width=5.4, height=0.24 * len(values) + 0.7)
    names = list(values)
    places = range(len(names))
    axes.barh(
        places, [values[name] for name in names], color=[colors[name] for name in names], height=0.7
    )
    axes.set_yticks(places, [_plain(name) for name in names], fontsize="small")
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e2e8f0", linewidth=0.8)
    return _save(figure)


def _figure(width: float = 5.4, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = matplotlib("figure").Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    _dress(axes)
    return figure, axes


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(figure: Figure) -> None:
    figure.legend(
        loc="outside upper left",
        ncols=4,
        frameon=False,
        fontsize="small",
        columnspacing=1.2,
        handlelength=1.3,
    )


def _save(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib().rc_context({"svg.fonttype": "none", "svg.hashsalt": "masktas"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
