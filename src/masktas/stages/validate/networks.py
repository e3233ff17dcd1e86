"""Draw the networks that ratings are validated on: evenly over all sizes, or of about one size."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

from masktas.errors import BudgetError
from masktas.space import Architecture, BudgetedSpace
from masktas.space.limits import format_amount

TRIES = 20  # draws for each wanted network before giving up


def stratified(candidates: BudgetedSpace, count: int, rng: random.Random) -> list[Architecture]:
    """Draw one network from each of `count` equal ranges of parameters, in ascending order.

    For a range without networks, another network is drawn from the whole budget.

    Returns:
        Distinct networks; fewer than `count` where there are no more.
    """
    low, high = (round(end) for end in candidates.cost_range("params"))
    edges = [low + (high + 1 - low) * number // count for number in range(count + 1)]
    drawn: list[Architecture] = []
    for least, beyond in pairwise(edges):
        if least < beyond:
            try:
                stratum = within(candidates, "params", least, beyond - 1)
            except BudgetError:
                continue
            _extend(drawn, stratum, len(drawn) + 1, rng)
    _extend(drawn, candidates, count, rng)
    return drawn


def banded(candidates: BudgetedSpace, count: int, rng: random.Random) -> list[Architecture]:
    """Draw distinct networks at random; fewer than `count` where there are no more."""
    drawn: list[Architecture] = []
    _extend(drawn, candidates, count, rng)
    return drawn


def within(candidates: BudgetedSpace, what: str, least: float, most: float) -> BudgetedSpace:
    """Return the candidates with an amount of a quantity from `least` to `most`.

    Raises:
        BudgetError: if there are none.
    """
    low, high = candidates.budget.limits(what)
    least, most = max(least, low or 0), min(most, high or most)
    if least > most:
        raise BudgetError(
            f"No network of {candidates.space.name} has {format_amount(what, least)} {what} or "
            f"more and {format_amount(what, most)} or fewer: choose another --center or --band."
        )
    ends: dict[str, Any] = {f"min_{what}": least, f"max_{what}": most}
    tighter = replace(candidates.budget, **ends)
    return BudgetedSpace(candidates.space, tighter, candidates.costs)


def _extend(
    drawn: list[Architecture], candidates: BudgetedSpace, count: int, rng: random.Random
) -> None:
    """Add new networks to `drawn` until it holds `count`, or no more are found."""
    known = set(drawn)
    tries = TRIES * (count - len(drawn))
    while len(drawn) < count and tries:
        one = candidates.sample(rng)
        if one not in known:
            known.add(one)
            drawn.append(one)
        tries -= 1
