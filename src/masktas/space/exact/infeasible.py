"""Error message for an infeasible budget: the feasible range of each quantity."""

from __future__ import annotations

import decimal

from masktas.space.budget import Budget
from masktas.space.exact.cells import Cells
from masktas.space.exact.tables import Tables
from masktas.space.limits import format_amount


def infeasible_message(tables: Tables, budget: Budget, *, tries: int = 0) -> str:
    """Return the message: for each limited quantity its range when all other limits hold.

    If no network meets the other limits either, the range in the whole space. Ends are rounded
    inwards, so that a limit copied from the message can be met.

    Args:
        tables: of the space.
        budget: the infeasible budget.
        tries: draws without success, if it is not known that no network meets the budget.
    """
    possible, whole = [], []
    for what in budget.limited():
        others = budget.with_limits(what)
        found = _feasible_range(tables, others, what)
        if found is None:
            whole.append(f"{what} from {format_range(what, *tables.span(what))}")
            continue
        span, exact = found
        words = f"with {budget_text(others)}, " if others.limited() else ""
        words += f"{what} go from " if what.endswith("s") else f"{what} goes from "
        words += ("" if exact else "about ") + format_range(what, *span)
        possible.append(words + (_gap_text(tables, budget, what, span) if exact else ""))
    if whole:
        possible.append(f"the whole space has {', '.join(whole)}")
    has = f"was found in {tries:,} draws that has" if tries else "has"
    return (
        f"No network of space {tables.space.name} {has} {budget_text(budget)}: "
        f"{'; '.join(possible)}. "
        "Choose limits within that, or another space."
    )


def _feasible_range(
    tables: Tables, budget: Budget, what: str
) -> tuple[tuple[float, float], bool] | None:
    """Return the range of a quantity within a budget and whether it is exact; None if empty."""
    if not budget.limited():
        return tables.span(what), True
    cells = Cells(tables, budget, what) if tables.may_meet(budget) else None
    return (cells.span(what), cells.exact) if cells is not None and cells.rows else None


def budget_text(budget: Budget) -> str:
    """Format a budget as part of a sentence."""
    return str(budget).replace(", ", " and ")


def _gap_text(tables: Tables, budget: Budget, what: str, span: tuple[float, float]) -> str:
    """Return the nearest amounts around limits that lie within the range but exclude everything."""
    low, high = budget.limits(what)
    if low is None or high is None or low <= span[0] or high >= span[1]:
        return ""
    below = Cells(tables, budget.with_limits(what, most=low), what)
    above = Cells(tables, budget.with_limits(what, least=high), what)
    if not (below.exact and above.exact):
        return ""
    ends = _format_exact(what, below.span(what)[1]), _format_exact(what, above.span(what)[0])
    return f", but none between {ends[0]} and {ends[1]}"


def format_range(what: str, low: float, high: float) -> str:
    """Format a range with three digits, rounded inwards; exactly if three are too few."""
    least, most = _rounded(low, decimal.ROUND_CEILING), _rounded(high, decimal.ROUND_FLOOR)
    if least > most:
        return f"{_format_exact(what, low)} to {_format_exact(what, high)}"
    return f"{format_amount(what, least)} to {format_amount(what, most)}"


def _rounded(value: float, rounding: str) -> float:
    number = decimal.Context(prec=3, rounding=rounding).create_decimal(value)
    return float(number)


def _format_exact(what: str, value: float) -> str:
    units = {"latency": " ms", "size": " B", "memory": " B"}
    return f"{value}{units.get(what, '')}"
