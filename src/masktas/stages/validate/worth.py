"""What a search can gain, in words and tables: the spread of networks, and two supernets."""

from __future__ import annotations

from collections.abc import Mapping

from masktas.stages.validate.agreement import SupernetAgreement
from masktas.stages.validate.findings import format_interval, format_number, format_points
from masktas.stages.validate.gain import SELECTED, Gain, Spread

SMALL = 0.005  # true standard deviation of accuracy below which no choice matters

HEADER_GAIN = (
    "rating",
    "rho, true\naccuracy",
    *(f"points gained,\nbest of {n:,}" for n in SELECTED),
)
HEADER_SUPERNETS = ("rating", "tau of the\ntwo supernets", "tau of\nthis one", "tau of\nthe other",
                    "tau of\ntheir mean")  # fmt: skip


def table_gain(spread: Spread) -> list[list[str]]:
    """Return the rows under `HEADER_GAIN`: ratings, best first, then a perfect one."""

    def key(name: str) -> float:
        value = spread.gains[name].rho.value
        return -2.0 if value is None else value

    rows = [_row(name, spread.gains[name]) for name in sorted(spread.gains, key=key, reverse=True)]
    return [*rows, _row("perfect", spread.perfect)]


def _row(name: str, gain: Gain) -> list[str]:
    cells = (format_interval(gain.rho), *(format_points(one) for one in gain.best_of.values()))
    return [name, *(cell.replace(" [", "\n[") for cell in cells)]


def title_gain(spread: Spread) -> str:
    """Return the title of the table under `HEADER_GAIN`."""
    sd = format_points(spread.sd)
    return f"True standard deviation {sd} points; gain over a random network"


def table_supernets(agreements: Mapping[str, SupernetAgreement]) -> list[list[str]]:
    """Return the rows under `HEADER_SUPERNETS`, one for each rating."""
    rows = []
    for name, one in agreements.items():
        taus = (one.between, one.own, one.other, one.mean)
        cells = (format_interval(tau).replace(" [", "\n[") for tau in taus)
        rows.append([name, *(cell.replace(", ", ",\n") for cell in cells)])  # 80 characters
    return rows


def difference(spread: Spread, *, lead: str, banded: bool, seeds: int) -> str:
    """Return one sentence: how much networks differ, and what choosing by a rating gains.

    Args:
        spread: of the networks.
        lead: name of the rating.
        banded: whether the networks are of about one size.
        seeds: number of probes of each network; the noise of a single one counts as difference.
    """
    networks = "Networks of this size" if banded else "These networks"
    sd = spread.sd
    if sd.value is None:
        return f"How much {networks.lower()} differ is not known: there are too few of them."
    most = "at most " if seeds == 1 else ""
    words = f"{networks} differ by {most}{format_points(sd)} points (true standard deviation)"
    if sd.value < SMALL:
        unsure = sd.high is None or sd.high >= SMALL
        return f"{words}: any of them will do{', as far as this tells' if unsure else ''}."
    count = SELECTED[-1]
    best = spread.perfect.best_of[count].value
    gained = format_points(spread.gains[lead].best_of[count])
    return (
        f"{words}; choosing the best of {count:,} by {lead} is expected to gain {gained} points "
        f"over a random one, a perfect rating {format_number(best, '{:.1f}', 100)}."
    )
