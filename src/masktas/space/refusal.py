"""What is said to a budget that no network of a space meets: what would be possible."""

from __future__ import annotations

import decimal

from masktas.space.budget import Budget
from masktas.space.cells import Cells
from masktas.space.limits import format_amount
from masktas.space.tables import Tables


def refusal(tables: Tables, budget: Budget) -> str:
    """Say for each limited quantity what remains when all other limits hold.

    Where nothing does, say what the whole space has. Ends are rounded into the ranges, so that
    who copies one into a limit asks for what there is.
    """
    possible, whole = [], []
    for what in budget.limited():
        others = _with(budget, what)
        cells = Cells(tables, others, what)
        if not cells.rows:
            whole.append(f"{what} from {written_range(what, *tables.span(what))}")
            continue
        low, high = cells.span(what)
        words = f"with {joined(others)}, " if others.limited() else ""
        words += f"{what} go from " if what.endswith("s") else f"{what} goes from "
        possible.append(words + ("" if cells.exact else "about ") + written_range(what, low, high))
        if cells.exact:
            possible[-1] += _gap(tables, budget, what, (low, high))
    if whole:
        possible.append(f"the whole space has {', '.join(whole)}")
    return (
        f"No network of space {tables.space.name} has {joined(budget)}: {'; '.join(possible)}. "
        "Choose limits within that, or another space."
    )


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
    below = Cells(tables, _with(budget, what, most=low), what).span(what)[1]
    above = Cells(tables, _with(budget, what, least=high), what).span(what)[0]
    return f", but none between {_exact(what, below)} and {_exact(what, above)}"


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
