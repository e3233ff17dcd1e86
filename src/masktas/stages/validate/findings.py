"""The findings of a validation: tables, one sentence, a CSV file and a scatter plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from masktas.errors import require_extra
from masktas.files import write_atomic, write_text
from masktas.formats import csv_text
from masktas.stages.validate.agreement import TOP, Agreement
from masktas.stages.validate.rank_correlation import Interval
from masktas.stages.validate.reliability import Ceiling, Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF_SIZE = ("params", "macs")  # ratings that depend on size only
NONE = "–"
COLUMNS = (4, 3)  # of panels: the one that leaves fewer places empty is used
WIDE = 100  # least width of a console for the whole table
INK, FAINT = "#1d2733", "#94a3b8"

Floats = NDArray[np.float64]

LEVEL = 0.05  # significance level of corrected p values

# broken such that the brief table fits 80 characters
HEADER = (*("rating", "tau", "rho", "rho\ngiven size", "points\nlost, top\n1/3/5", "split\nhalf"),)
HEADER_VARIANTS = ("variant", "tau", "tau less size's", "p", "rho given size", "p", "split half")
HEADER_VARIANTS_BRIEF = ("variant", "tau", "gain", "p", "partial", "p")
HEADER_UNLABELLED = ("rating", "tau of halves", "rho of halves", "corrected")


def format_interval(one: Interval, form: str = "{:.2f}") -> str:
    """Write an estimate with its interval: 0.77 [0.62, 0.88]."""
    if one.value is None:
        return NONE
    if one.low is None or one.high is None:
        return form.format(one.value)
    return f"{form} [{form}, {form}]".format(one.value, one.low, one.high)


def _cell(one: Interval) -> str:
    """Write an estimate in two lines: the table then fits 80 columns."""
    return format_interval(one).replace(" [", "\n[")


def format_number(value: float | None, form: str = "{:.2f}", times: float = 1.0) -> str:
    """Write a number, or a dash for None."""
    return NONE if value is None else form.format(times * value)


def table(
    agreements: Mapping[str, Agreement],
    reliabilities: Mapping[str, Reliability],
    ceiling: Ceiling,
    *,
    brief: bool = False,
) -> list[list[str]]:
    """Return the rows under `HEADER`: ratings, best first, then the reliability of accuracy.

    Reliability is measured between two halves of the test images and between two seeds of the
    probe; the ceiling of every rating follows from it. The brief table leaves out the intervals of
    points lost.
    """
    rows = []
    for name in ranked(agreements):
        one = agreements[name]
        lost = "\n".join(format_points(one.regret[k]) for k in TOP)
        if brief:
            lost = "/".join(format_number(one.regret[k].value, "{:.1f}", 100) for k in TOP)
        halves = reliabilities[name].corrected.value if name in reliabilities else None
        rows.append(
            [
                *(name, _cell(one.tau), format_number(one.rho.value), _cell(one.partial)),
                *(lost, format_number(halves)),
            ]
        )
    for name, itself in (
        ("two halves", ceiling.halves),
        ("two seeds", ceiling.seeds),
        ("ceiling", ceiling),
    ):
        rows.append([name, _cell(itself.tau), format_number(itself.rho.value), NONE, NONE, NONE])
    return rows


def format_points(lost: Interval) -> str:
    """Write a share as percent points: 1.2 [0.0, 3.1]."""
    times = [None if one is None else 100 * one for one in (lost.value, lost.low, lost.high)]
    return format_interval(Interval(*times), "{:.1f}")


def table_variants(
    agreements: Mapping[str, Agreement],
    reliabilities: Mapping[str, Reliability],
    *,
    brief: bool = False,
) -> list[list[str]]:
    """Return the rows under `HEADER_VARIANTS` (or its brief form), one for each, best first."""
    rows = []
    for name in ranked(agreements):
        one = agreements[name]
        halves = reliabilities[name].corrected.value
        rows.append(
            [
                *(name, format_number(one.tau.value)),
                *(
                    format_number(one.gain.value) if brief else format_interval(one.gain),
                    format_number(one.gain_p),
                ),
                *(format_number(one.partial.value), format_number(one.partial_p)),
                *([] if brief else [format_number(halves)]),
            ]
        )
    return rows


def table_unlabelled(reliabilities: Mapping[str, Reliability]) -> list[list[str]]:
    """Return the rows under `HEADER_UNLABELLED`."""
    return [
        [name, format_interval(one.tau), format_interval(one.rho), format_interval(one.corrected)]
        for name, one in reliabilities.items()
    ]


def ranked(agreements: Mapping[str, Agreement]) -> list[str]:
    """Return the ratings' names by tau, best first; undefined ones last."""

    def tau(name: str) -> float:
        value = agreements[name].tau.value
        return -2.0 if value is None else value

    return sorted(agreements, key=tau, reverse=True)


def verdict(
    agreements: Mapping[str, Agreement],
    *,
    lead: str,
    num_networks: int,
    variants: Sequence[str] = (),
) -> str:
    """Return one sentence: does the leading rating rank networks as accuracy does?

    The leading rating was chosen in advance. It is "better" than size if the whole confidence
    interval of the difference of the taus is above 0, and "adds" to size if that of the rank
    correlation given size is. Other ratings need a p value below 0.05, corrected for their number.

    Args:
        agreements: of all ratings, including size and variants.
        lead: name of the leading rating.
        num_networks: n.
        variants: names of the variants among `agreements`.
    """
    one = agreements[lead]
    if one.tau.value is None:
        return (
            f"Nothing can be said: of {num_networks} networks too few differ in {lead} and in "
            "accuracy."
        )
    parts = [f"{lead} ranks {num_networks} networks with tau {format_interval(one.tau)}"]
    sizes = [name for name in ranked(agreements) if name in OF_SIZE and name != lead]
    best = agreements[sizes[0]].tau if sizes else Interval(None)
    if best.value is not None:
        joined = "but" if best.value > 0.8 * one.tau.value else "and"
        parts[0] += f", {joined} size alone ({sizes[0]}) reaches {format_interval(best)}"
    if one.partial.value is not None:
        parts.append(f"given size its partial rank correlation is {format_interval(one.partial)}")
    parts[-1] += f": {'it is size' if lead in OF_SIZE else _conclusion(one, best)}"
    usual = {name: one for name, one in agreements.items() if name not in variants}
    corrected = f"after Holm's correction for {compared(agreements)} comparisons"
    parts.append(f"{corrected}, {_others(usual, lead)}")
    best_first = [name for name in ranked(agreements) if name in variants]
    if best_first and agreements[best_first[0]].tau.value is not None:
        parts.append(_best_variant(agreements, best_first))
    return "; ".join(parts) + "."


def compared(agreements: Mapping[str, Agreement]) -> int:
    """Return the number of ratings that were compared with size, for the correction of p values."""
    return sum(one.gain_p is not None for one in agreements.values())


def verdict_unlabelled(reliabilities: Mapping[str, Reliability]) -> str:
    """Return one sentence for a validation without labels: the reliability of each rating."""
    each = [f"{name} {format_interval(one.corrected)}" for name, one in reliabilities.items()]
    return (
        "Without labels nothing is known of accuracy; the reliability of the ratings over images "
        f"is {', '.join(each)}."
    )


def _conclusion(one: Agreement, size: Interval) -> str:
    if not one.tau.above_zero:
        return "it is not shown to rank them at all"
    if one.gain.above_zero:
        return "it ranks better than size"
    if one.partial.above_zero:
        return "it adds to size"
    return "mostly size" if size.above_zero else "no better than size, as far as this tells"


def _others(agreements: Mapping[str, Agreement], lead: str) -> str:
    """Name the other ratings that are better than size, or add to it."""
    others = [name for name in ranked(agreements) if name not in (*OF_SIZE, lead)]
    names = [name for name in others if agreements[name].tau.above_zero]
    better = [name for name in names if _is_better(agreements[name])]
    adding = [name for name in names if _adds(agreements[name]) and name not in better]
    parts = []
    if better:
        parts.append(f"better than size: {_named(better, agreements)}")
    if adding:
        parts.append(f"adding to size: {_named(adding, agreements)}")
    alone = agreements[lead].gain.above_zero
    return ", ".join(parts) or f"no {'other ' if alone else ''}rating beats size"


def _best_variant(agreements: Mapping[str, Agreement], best_first: Sequence[str]) -> str:
    """Describe the variant with the highest tau; name those that beat size or add to it."""
    name = best_first[0]
    shown = [one for one in best_first if _is_better(agreements[one])]
    adding = [one for one in best_first if _adds(agreements[one]) and one not in shown]
    words = f"better than size: {_named(shown, agreements)}" if shown else "none beats size"
    if adding:
        words += f", adding to it: {_named(adding, agreements)}"
    tau = format_interval(agreements[name].tau)
    return (
        f"of {len(best_first)} variants {name} ranks best with tau {tau}, which flatters it since "
        f"it was picked afterwards: {words}"
    )


def _is_better(one: Agreement) -> bool:
    return one.gain_p is not None and one.gain_p < LEVEL and (one.gain.value or 0) > 0


def _adds(one: Agreement) -> bool:
    return one.partial_p is not None and one.partial_p < LEVEL and (one.partial.value or 0) > 0


def _named(names: Sequence[str], agreements: Mapping[str, Agreement]) -> str:
    return " and ".join(f"{name} (tau {agreements[name].tau.value:.2f})" for name in names)


def write_csv(path: Path, columns: Mapping[str, Sequence[float | str]]) -> None:
    """Write columns of equal length, one line for each network."""
    write_text(path, csv_text(columns, zip(*columns.values(), strict=True)))


def matplotlib(part: str = "") -> ModuleType:
    """Import matplotlib, or a part of it; a ConfigError says how to install it."""
    name = f"matplotlib.{part}" if part else "matplotlib"
    return require_extra(name, "validate", "The scatter plot of a validation")


def write_scatter(
    folder: Path,
    ratings: Mapping[str, Floats],
    accuracy: Floats,
    params: Floats,
    agreements: Mapping[str, Agreement],
) -> None:
    """Draw ratings against accuracy, one panel for each, to `scatter.svg` and `scatter.png`.

    Args:
        folder: where the files are written.
        ratings: `[n]` each, by name.
        accuracy: `[S, n]`, for every seed of the probe; lines between the seeds show the noise.
        params: `[n]`, shown as colour.
        agreements: for the titles.
    """
    figure = scatter(ratings, accuracy, params, agreements)
    with matplotlib().rc_context({"svg.fonttype": "none", "svg.hashsalt": "masktas"}):
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            write_atomic(
                folder / f"scatter.{kind}",
                lambda path, kind=kind, metadata=metadata: figure.savefig(  # type: ignore[misc]
                    path, format=kind, dpi=130, metadata=metadata
                ),
            )


def scatter(
    ratings: Mapping[str, Floats],
    accuracy: Floats,
    params: Floats,
    agreements: Mapping[str, Agreement],
) -> Figure:
    """Return the figure; see `write_scatter`."""
    names = ranked(agreements)
    columns = min(len(names), min(COLUMNS, key=lambda columns: -len(names) % columns))
    rows = -(-len(names) // columns)
    ticker = matplotlib("ticker")
    figure: Figure = matplotlib("figure").Figure(
        figsize=(3.1 * columns + 0.9, 2.9 * rows), layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for panel, name in zip(panels, names, strict=False):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e2e8f0", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize="small")
        panel.vlines(
            ratings[name],
            100 * accuracy.min(axis=0),
            100 * accuracy.max(axis=0),
            color=FAINT,
            linewidth=0.8,
        )
        points = panel.scatter(
            ratings[name], 100 * accuracy.mean(axis=0), c=params, cmap="viridis", s=22, zorder=3
        )
        panel.set_title(_title(name, agreements[name]), fontsize="small", color=INK)
        panel.xaxis.set_major_locator(ticker.MaxNLocator(4))
        if name in OF_SIZE:
            panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.supylabel("accuracy, %", fontsize="small", color=INK)
    figure.supxlabel("rating (higher is better)", fontsize="small", color=INK)
    figure.colorbar(
        points, ax=panels.tolist(), label="parameters", format=ticker.EngFormatter(sep="")
    )
    return figure


def _title(name: str, one: Agreement) -> str:
    known = "" if one.partial.value is None else f", rho given size {one.partial.value:.2f}"
    return f"{name}\ntau {format_number(one.tau.value)}{known}"
