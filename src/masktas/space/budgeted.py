"""A space within a budget: what a search, a sampler and a person ask of it."""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from collections.abc import Iterator, Sequence

from masktas.errors import BudgetError
from masktas.space.architecture import Architecture
from masktas.space.budget import Budget
from masktas.space.costs import QUANTITIES, Costs
from masktas.space.exact.cells import Cells, Pair
from masktas.space.exact.infeasible import refusal
from masktas.space.exact.tables import Tables
from masktas.space.space import SearchSpace

TRIES = 1000  # to draw the first network where cells are not exact: well below a second
REDRAWS = 10_000


class BudgetedSpace:
    """The architectures of a space that meet a budget.

    Counts, ranges and draws are exact, unless the cells of a space would be too many: with 12
    choices of heads and 8 of MLPs in each of 24 blocks, one limit of parameters is still exact,
    latency or several limits at once are not. Then `exact` is False, `size` and `cost_range` are
    upper and outer bounds, and draws are repeated until the budget is met. So `contains`, what is
    iterated, and the distribution of `sample` are exact all the same; `sample_evenly` and
    `costliest` keep the budget.

    Args:
        space: the space.
        budget: the limits.
        costs: how architectures are costed; a budget with a limit of latency needs a model.

    Raises:
        BudgetError: at once, with what would be possible, if there is none; or if latency is
            limited and there is no model of it, or one of another space.
    """

    def __init__(self, space: SearchSpace, budget: Budget, costs: Costs | None = None) -> None:
        self.space = space
        self.budget = budget
        self.costs = costs or Costs()
        if "latency" in budget.limited():
            self.costs.latency_model().require(space)
        self._tables = Tables(space, self.costs)
        if not self._tables.may_meet(budget):
            raise BudgetError(refusal(self._tables, budget))
        self._cells = Cells(self._tables, budget)
        self.exact = self._cells.exact
        if not self._cells.rows:
            raise BudgetError(refusal(self._tables, budget))
        self._draw(random.Random(0), TRIES)  # complains if nothing can be found
        self._asked: dict[tuple[str, bool], Cells] = {}
        self._sizes: list[int] = []
        self._by_size: dict[int, list[Pair]] = {}

    def size(self) -> int:
        """Return the number of architectures within the budget."""
        return self._cells.count

    def cost_range(self, what: str) -> tuple[float, float]:
        """Return the smallest and the largest amount of a quantity within the budget.

        Raises:
            BudgetError: for latency without a model of it.
        """
        if what not in QUANTITIES:
            raise BudgetError(f"{what!r} is no cost: choose one of {', '.join(QUANTITIES)}.")
        if what == "latency":
            self.costs.latency_model().require(self.space)
        if not self.budget.limited():
            return self._tables.span(what)
        return self._cells_for(what).span(what)

    def contains(self, architecture: Architecture) -> bool:
        """Say whether the architecture is of the space and within the budget."""
        return self.space.check(architecture) is None and self._meets(architecture)

    def _meets(self, architecture: Architecture) -> bool:
        limited = self.budget.limited()
        return self.budget.allows({what: self.costs.amount(what, architecture) for what in limited})

    def sample(self, rng: random.Random) -> Architecture:
        """Draw one as `SearchSpace.sample` would, given that it meets the budget.

        Raises:
            BudgetError: where cells are not exact, if no draw of many meets it.
        """
        return self._draw(rng, REDRAWS)

    def _draw(self, rng: random.Random, tries: int) -> Architecture:
        for _ in range(tries):
            one = self._cells.draw(rng)
            if self.exact or self._meets(one):
                return one
        raise BudgetError(refusal(self._tables, self.budget, tries=tries))

    def sample_evenly(self, rng: random.Random) -> Architecture:
        """Draw a number of parameters uniformly, then an architecture of about that many.

        `sample` draws most from the middle of the range, where most architectures are.
        """
        cells = self._cells_for("params", paired=True)
        if not self._sizes:
            for pair in cells.pairs():
                self._by_size.setdefault(sum(cells.amount("params", pair)) // 2, []).append(pair)
            self._sizes = sorted(self._by_size)
        for _ in range(REDRAWS):
            wanted = rng.uniform(self._sizes[0], self._sizes[-1])
            after = bisect.bisect_left(self._sizes, wanted)
            near = self._sizes[max(0, after - 1) : after + 1]
            size = min(near, key=lambda size: abs(size - wanted))
            one = cells.draw_from(_drawn(self._by_size[size], rng), rng)
            if cells.exact or self._meets(one):
                return one
        return self.sample(rng)

    def costliest(self, rng: random.Random) -> Architecture:
        """Draw one of those with the most multiply-accumulates within the budget.

        Where cells are not exact: one of nearly as many.
        """
        cells = self._cells_for("macs", paired=True)
        if cells.exact:
            most = max(cells.amount("macs", pair) for pair in cells.pairs())
            top = [pair for pair in cells.pairs() if cells.amount("macs", pair) == most]
            return cells.draw_from(_drawn(top, rng), rng)
        top = heapq.nlargest(100, cells.pairs(), key=lambda pair: cells.amount("macs", pair)[1])
        drawn = [cells.draw_from(pair, rng) for pair in top] + [self.sample(rng)]
        fitting = filter(self._meets, itertools.chain(drawn, self.space.uniforms()))
        return max(fitting, key=lambda one: self.costs.amount("macs", one))

    def largest_uniform(self) -> Architecture | None:
        """Return the largest network within the budget whose blocks are all alike, if any."""

        def key(one: Architecture) -> tuple[float, float]:
            return self.costs.amount("params", one), self.costs.amount("macs", one)

        return max(filter(self._meets, self.space.uniforms()), key=key, default=None)

    def __iter__(self) -> Iterator[Architecture]:
        """Yield every architecture within the budget once, in a fixed order."""
        for one in self._cells.networks():
            if self.exact or self._meets(one):
                yield one

    def _cells_for(self, what: str, *, paired: bool = False) -> Cells:
        """Return the cells with the sums of one quantity more."""
        if (what, paired) not in self._asked:
            self._asked[what, paired] = Cells(self._tables, self.budget, what, paired=paired)
        return self._asked[what, paired]


def _drawn(pairs: Sequence[Pair], rng: random.Random) -> Pair:
    """Draw a cell by how many architectures it holds."""
    counts = list(itertools.accumulate(pair.ways for pair in pairs))
    return pairs[bisect.bisect_right(counts, rng.randrange(counts[-1]))]
