"""The preset spaces and larger ones, with latency models, and bands around their middles."""

import random

import pytest

from masktas.space import PRESETS, Budget, BudgetedSpace, Costs, SearchSpace
from measured import latency_model

# What a user may well write: more cells than can be counted one by one.
BIG = SearchSpace(
    "big", (384, 512, 640), (20, 22, 24), tuple(range(1, 13)), (1, 1.5, 2, 2.5, 3, 3.5, 4, 5)
)
UNEVEN = SearchSpace(
    "uneven", (320, 384, 448), (12, 16, 20, 24), tuple(range(1, 13)),
    (1, 1.3, 1.7, 2.1, 2.9, 3.5, 4, 4.3),
)  # fmt: skip
SPACES = {**PRESETS, "big": BIG, "uneven": UNEVEN}
WIDE = ("wide", "wide-micro")  # their latencies have too many different sums to be exact
# spaces of the same kinds as others of this list, in which tests take the longest
LONG = ("wide", "uneven")
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in SPACES]
COSTS = {name: Costs(latency=latency_model(s, random.Random(1))) for name, s in SPACES.items()}


def band(name, *quantities, share):
    """Return limits so far apart (a share of the range) around what the middle network costs."""
    whole, middle = BudgetedSpace(SPACES[name], Budget(), COSTS[name]), SPACES[name].middle
    limits = {}
    for what in quantities:
        low, high = whole.cost_range(what)
        at, half = COSTS[name].amount(what, middle), (high - low) * share / 2
        ends = (at - half, at + half) if what == "latency" else (int(at - half), int(at + half))
        limits |= {f"min_{what}": ends[0], f"max_{what}": ends[1]}
    return Budget(**limits)
