"""A search space within a budget: counting, sampling and iterating its architectures."""

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
from masktas.space.exact.infeasible import infeasible_message
from masktas.space.exact.tables import Tables
from masktas.space.space import SearchSpace

TRIES = 1000  # draws for the first network if cells are not exact: well below a second
REDRAWS = 10_000


class BudgetedSpace:
    """The architectures of a space that meet a budget.

    Counts, ranges and draws are exact unless the space has too many cells: with 12 choices of heads
    and 8 of MLP ratios in each of 24 blocks, a single limit on parameters is still exact, but a
    limit on latency or several limits are not. Then `exact` is False, `size` and `cost_range` are
    upper and outer bounds, and draws are repeated until one meets the budget. `contains`, iteration
    and the distribution of `sample` are exact in both cases; results of `sample_evenly` and
    `costliest` always meet the budget.

    Args:
        space: the space.
        budget: the limits.
        costs: of architectures; a limit on latency needs a latency model.

    Raises:
        BudgetError: if no architecture meets the budget, with the feasible ranges; or if latency is
            limited and there is no latency model of this space.
    """

    def __init__(self, space: SearchSpace, budget: Budget, costs: Costs | None = None) -> None:
        self.space = space
        self.budget = budget
        self.costs = costs or Costs()
        if "latency" in budget.limited():
            self.costs.latency_model().require(space)
        self._tables = Tables(space, self.costs)
        if not self._tables.may_meet(budget):
            raise BudgetError(infeasible_message(self._tables, budget))
        self._cells = Cells(self._tables, budget)
        self.exact = self._cells.exact
        if not self._cells.rows:
            raise BudgetError(infeasible_message(self._tables, budget))
        self._draw(random.Random(0), TRIES)  # raises if none is found
        self._more_cells: dict[tuple[str, bool], Cells] = {}
        self._sizes: list[int] = []
        self._by_size: dict[int, list[Pair]] = {}

    def size(self) -> int:
        """Return the number of architectures within the budget."""
        return self._cells.count

    def cost_range(self, what: str) -> tuple[float, float]:
        """Return the smallest and the largest amount of a quantity within the budget.

        Raises:
            BudgetError: for latency without a latency model.
        """
        if what not in QUANTITIES:
            raise BudgetError(f"{what!r} is not a cost: choose one of {', '.join(QUANTITIES)}.")
        if what == "latency":
            self.costs.latency_model().require(self.space)
        if not self.budget.limited():
            return self._tables.span(what)
        return self._cells_for(what).span(what)

    def contains(self, architecture: Architecture) -> bool:
        """Return whether the architecture belongs to the space and meets the budget."""
        return self.space.check(architecture) is None and self._meets(architecture)

    def _meets(self, architecture: Architecture) -> bool:
        limited = self.budget.limited()
        return self.budget.allows({what: self.costs.amount(what, architecture) for what in limited})

    def sample(self, rng: random.Random) -> Architecture:
        """Draw from the distribution of `SearchSpace.sample`, conditioned on the budget.

        Raises:
            BudgetError: if cells are not exact and none of many draws meets the budget.
        """
        return self._draw(rng, REDRAWS)

    def _draw(self, rng: random.Random, tries: int) -> Architecture:
        for _ in range(tries):
            one = self._cells.draw(rng)
            if self.exact or self._meets(one):
                return one
        raise BudgetError(infeasible_message(self._tables, self.budget, tries=tries))

    def sample_evenly(self, rng: random.Random) -> Architecture:
        """Draw a number of parameters uniformly, then an architecture of about that size.

        `sample` mostly returns architectures from the middle of the range, where most are.
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
        """Draw among the architectures with the most multiply-accumulates within the budget.

        If cells are not exact, the result may have slightly fewer.
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
        """Return the largest network within the budget whose blocks are all equal, if any."""

        def key(one: Architecture) -> tuple[float, float]:
            return self.costs.amount("params", one), self.costs.amount("macs", one)

        return max(filter(self._meets, self.space.uniforms()), key=key, default=None)

    def __iter__(self) -> Iterator[Architecture]:
        """Yield every architecture within the budget once, in a fixed order."""
        for one in self._cells.networks():
            if self.exact or self._meets(one):
                yield one

    def _cells_for(self, what: str, *, paired: bool = False) -> Cells:
        """Return cells that also track the sums of one more quantity."""
        if (what, paired) not in self._more_cells:
            self._more_cells[what, paired] = Cells(self._tables, self.budget, what, paired=paired)
        return self._more_cells[what, paired]


def _drawn(pairs: Sequence[Pair], rng: random.Random) -> Pair:
    """Draw a cell with probability proportional to its number of architectures."""
    counts = list(itertools.accumulate(pair.ways for pair in pairs))
    return pairs[bisect.bisect_right(counts, rng.randrange(counts[-1]))]
