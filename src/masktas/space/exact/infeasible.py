"""What is said to a budget that no network of a space meets: what would be possible."""

from __future__ import annotations

import decimal

from masktas.space.budget import Budget
from masktas.space.exact.cells import Cells
from masktas.space.exact.tables import Tables
from masktas.space.limits import format_amount


def refusal(tables: Tables, budget: Budget, *, tries: int = 0) -> str:
    """Say for each limited quantity what remains when all other limits hold.

    Where nothing does, say what the whole space has. Ends are rounded into the ranges, so that
    who copies one into a limit asks for what there is.

    Args:
        tables: of the space.
        budget: what cannot be met.
        tries: draws that were made in vain, where it is not known that there is none.
    """
    possible, whole = [], []
    for what in budget.limited():
        others = _with(budget, what)
        found = _span(tables, others, what)
        if found is None:
            whole.append(f"{what} from {written_range(what, *tables.span(what))}")
            continue
        span, exact = found
        words = f"with {joined(others)}, " if others.limited() else ""
        words += f"{what} go from " if what.endswith("s") else f"{what} goes from "
        words += ("" if exact else "about ") + written_range(what, *span)
        possible.append(words + (_gap(tables, budget, what, span) if exact else ""))
    if whole:
        possible.append(f"the whole space has {', '.join(whole)}")
    has = f"was found in {tries:,} draws that has" if tries else "has"
    return (
        f"No network of space {tables.space.name} {has} {joined(budget)}: {'; '.join(possible)}. "
        "Choose limits within that, or another space."
    )


def _span(tables: Tables, budget: Budget, what: str) -> tuple[tuple[float, float], bool] | None:
    """Return the range of a quantity within a budget, and whether it is exact; None if empty."""
    if not budget.limited():
        return tables.span(what), True
    cells = Cells(tables, budget, what) if tables.may_meet(budget) else None
    return (cells.span(what), cells.exact) if cells is not None and cells.rows else None


def joined(budget: Budget) -> str:
    """Write a budget as part of a sentence."""
    return str(budget).replace(", ", " and ")


def _with(
    budget: Budget, what: str, least: float | None = None, most: float | None = None
) -> Budget:
    """Return the budget with other limits of one quantity."""
    return Budget(**{**budget.to_dict(), f"min_{what}": least, f"max_{what}": most})  # type: ignore[arg-type]


def _gap(tables: Tables, budget: Budget, what: str, span: tuple[float, float]) -> str:
    """Say what is nearest to limits that are within the range, and still have nothing between."""
    low, high = budget.limits(what)
    if low is None or high is None or low <= span[0] or high >= span[1]:
        return ""
    below = Cells(tables, _with(budget, what, most=low), what)
    above = Cells(tables, _with(budget, what, least=high), what)
    if not (below.exact and above.exact):
        return ""
    ends = _exact(what, below.span(what)[1]), _exact(what, above.span(what)[0])
    return f", but none between {ends[0]} and {ends[1]}"


def written_range(what: str, low: float, high: float) -> str:
    """Write a range to three digits, within what it is; exactly where that is too coarse."""
    least, most = _rounded(low, decimal.ROUND_CEILING), _rounded(high, decimal.ROUND_FLOOR)
    if least > most:
        return f"{_exact(what, low)} to {_exact(what, high)}"
    return f"{format_amount(what, least)} to {format_amount(what, most)}"


def _rounded(value: float, rounding: str) -> float:
    number = decimal.Context(prec=3, rounding=rounding).create_decimal(value)
    return float(number)


def _exact(what: str, value: float) -> str:
    units = {"latency": " ms", "size": " B", "memory": " B"}
    return f"{value}{units.get(what, '')}"
