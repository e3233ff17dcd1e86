"""A budget that must be used, as a union of budgets that share no network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from masktas.space.budget import Budget
from masktas.space.latency import TICKS


def least_amount(what: str, most: float, share: float) -> float:
    """Return the smallest possible amount of a quantity that is at least `share` of `most`.

    Latency in whole ticks, everything else in whole numbers.
    """
    if what == "latency":
        return math.ceil(share * round(most * TICKS)) / TICKS
    return math.ceil(share * most)


def boxes(budget: Budget, least: Mapping[str, float]) -> Iterator[Budget]:
    """Divide the networks that use enough of at least one quantity into disjoint budgets.

    Box i has those with at least the minimum of quantity i, and less than the minimum of all
    quantities before it. Boxes that cannot hold a network are left out.

    Args:
        budget: limits that all of them meet.
        least: by quantity, the amount that is enough.
    """
    remaining = budget
    for what, amount in least.items():
        low, high = remaining.limits(what)
        yield remaining.with_limits(what, max(low or 0, amount), high)
        below = _next_below(what, amount)
        high = below if high is None else min(high, below)
        if high < (low or 0):
            return
        remaining = remaining.with_limits(what, low, high)


def _next_below(what: str, amount: float) -> float:
    """Return the largest possible amount that is less than this one."""
    return (round(amount * TICKS) - 1) / TICKS if what == "latency" else amount - 1
