"""A search space within a budget: counting, sampling and iterating its architectures."""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from masktas.errors import BudgetError
from masktas.space.architecture import Architecture
from masktas.space.budget import Budget
from masktas.space.costs import QUANTITIES, Costs
from masktas.space.exact.boxes import boxes, least_amount
from masktas.space.exact.cells import Cells, Pair
from masktas.space.exact.infeasible import infeasible_message
from masktas.space.exact.tables import Tables
from masktas.space.space import SearchSpace

TRIES = 1000  # draws for the first network if cells are not exact: well below a second
REDRAWS = 10_000


class Counted(Protocol):
    """Something that stands for a number of architectures."""

    @property
    def ways(self) -> int:
        """The number of architectures."""


C = TypeVar("C", bound=Counted)


class Cell(NamedTuple):
    """A cell, and the cells that it is one of."""

    cells: Cells
    pair: Pair

    @property
    def ways(self) -> int:
        """The number of networks in the cell."""
        return self.pair.ways

    def bounds(self, what: str) -> tuple[int, int]:
        """Return the bounds of its amounts of one of the cells' sums."""
        return self.cells.amount(what, self.pair)

    def draw(self, rng: random.Random) -> Architecture:
        """Draw uniformly among its networks."""
        return self.cells.draw_from(self.pair, rng)


class BudgetedSpace:
    """The architectures of a space that meet a budget, and use it.

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
        min_use: the share of the largest amount within the budget that an architecture uses, of at
            least one of the quantities with an upper limit (SPEC 6.2). 0: any architecture within
            the budget. It never leaves out all of them.

    Raises:
        BudgetError: if no architecture meets the budget, with the feasible ranges; or if latency is
            limited and there is no latency model of this space.
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: Budget,
        costs: Costs | None = None,
        *,
        min_use: float = 0.0,
    ) -> None:
        self.space = space
        self.budget = budget
        self.costs = costs or Costs()
        self.min_use = min_use
        if "latency" in budget.limited():
            self.costs.latency_model().require(space)
        self._tables = Tables(space, self.costs)
        if not self._tables.may_meet(budget):
            raise BudgetError(infeasible_message(self._tables, budget))
        self._more_cells: dict[tuple[str, bool], list[Cells]] = {}
        self._sizes: list[int] = []
        self._by_size: dict[int, list[Cell]] = {}
        self._least: dict[str, float] = {}
        self._take([budget])
        if min_use:
            self._least = {
                what: least_amount(what, self._most(what), min_use) for what in budget.capped()
            }
        if self._least:
            self._take(list(boxes(budget, self._least)))

    def _take(self, budgets: Sequence[Budget]) -> None:
        """Build the cells of budgets that share no network; BudgetError if no draw meets one."""
        self._more_cells.clear()
        met = [one for one in budgets if self._tables.may_meet(one)]
        cells = [Cells(self._tables, one) for one in met]
        self._budgets = [one for one, its in zip(met, cells, strict=True) if its.rows]
        self._cells = [its for its in cells if its.rows]
        self.exact = all(its.exact for its in self._cells)
        if not self._cells:
            raise BudgetError(infeasible_message(self._tables, self.budget))
        weights = {
            size: list(itertools.accumulate(its.weight(size) for its in self._cells))
            for size in self.space.patch_size
        }
        self._weights = {size: sums for size, sums in weights.items() if sums[-1]}
        self._draw(random.Random(0), TRIES)  # raises if none is found

    def size(self) -> int:
        """Return the number of architectures within the budget."""
        return sum(cells.count for cells in self._cells)

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
        # Cells of one more sum may be rounded to none where those of the budget alone are not.
        spans = [cells.span(what) for cells in self._cells_for(what) if cells.rows]
        spans = spans or [self._tables.span(what)]
        return min(low for low, _ in spans), max(high for _, high in spans)

    def contains(self, architecture: Architecture) -> bool:
        """Return whether the architecture is of the space, meets the budget and uses it."""
        return self.space.check(architecture) is None and self._meets(architecture)

    def allows(self, architecture: Architecture) -> bool:
        """Return whether it is of the space and meets the budget, however little it uses of it."""
        return self.space.check(architecture) is None and self.budget.allows(
            self._amounts(architecture)
        )

    def _amounts(self, architecture: Architecture) -> dict[str, float]:
        """Return the limited costs of an architecture."""
        return {what: self.costs.amount(what, architecture) for what in self.budget.limited()}

    def _meets(self, architecture: Architecture) -> bool:
        amounts = self._amounts(architecture)
        return self.budget.allows(amounts) and (
            not self._least or any(amounts[what] >= least for what, least in self._least.items())
        )

    def sample(self, rng: random.Random) -> Architecture:
        """Draw as `SearchSpace.sample` does, conditioned on the budget.

        Every patch size with networks within the budget is as likely as the others: by their
        number of networks, coarse patches would almost always be drawn under a limit on MACs.

        Raises:
            BudgetError: if cells are not exact and none of many draws meets the budget.
        """
        return self._draw(rng, REDRAWS)

    def _draw(self, rng: random.Random, tries: int) -> Architecture:
        sizes = list(self._weights)
        if len(sizes) > 1:
            rng.shuffle(sizes)  # the first, unless its cells turn out to hold no network
        for size, _ in itertools.product(sizes, range(tries)):
            at, sums = 0, self._weights[size]
            if len(self._cells) > 1:
                at = bisect.bisect_right(sums, rng.randrange(sums[-1]))
            one = self._cells[at].draw(size, rng)
            # Cells of two budgets may overlap if they are not exact: it must meet the drawn one.
            if self._cells[at].exact or self._budgets[at].allows(self._amounts(one)):
                return one
        if self._least:
            raise BudgetError(
                f"None of {tries:,} draws from space {self.space.name} with {self.budget} uses "
                f"{self.min_use:.0%} of it: choose a lower --min-use, or fewer limits."
            )
        raise BudgetError(infeasible_message(self._tables, self.budget, tries=tries))

    def sample_evenly(self, rng: random.Random) -> Architecture:
        """Draw a number of parameters uniformly, then an architecture of about that size.

        `sample` mostly returns architectures from the middle of the range, where most are.
        """
        if not self._sizes:
            for cell in self._each("params"):
                self._by_size.setdefault(sum(cell.bounds("params")) // 2, []).append(cell)
            self._sizes = sorted(self._by_size)
        for _ in range(REDRAWS):
            wanted = rng.uniform(self._sizes[0], self._sizes[-1])
            after = bisect.bisect_left(self._sizes, wanted)
            near = self._sizes[max(0, after - 1) : after + 1]
            size = min(near, key=lambda size: abs(size - wanted))
            cell = _drawn(self._by_size[size], rng)
            one = cell.draw(rng)
            if cell.cells.exact or self._meets(one):
                return one
        return self.sample(rng)

    def costliest(self, rng: random.Random) -> Architecture:
        """Draw among the architectures with the most multiply-accumulates within the budget.

        If cells are not exact, the result may have slightly fewer.
        """
        if all(cells.exact for cells in self._cells_for("macs", paired=True)):
            most = max(cell.bounds("macs") for cell in self._each("macs"))
            top = [cell for cell in self._each("macs") if cell.bounds("macs") == most]
            return _drawn(top, rng).draw(rng)
        return self._about_costliest("macs", rng)

    def _about_costliest(self, what: str, rng: random.Random) -> Architecture:
        """Return the costliest of some architectures that meet the budget."""

        def most(cell: Cell) -> int:
            sums = cell.cells.sums
            return cell.bounds(what if what in sums else sums[0])[1]

        top = heapq.nlargest(100, self._each(what), key=most)
        drawn = [cell.draw(rng) for cell in top] + [self.sample(rng)]
        fitting = filter(self._meets, itertools.chain(drawn, self.space.uniforms()))
        return max(fitting, key=lambda one: self.costs.amount(what, one))

    def _most(self, what: str) -> float:
        """Return the largest amount within the budget; where cells are not exact, a large one."""
        if all(cells.exact for cells in self._cells_for(what)):
            return self.cost_range(what)[1]
        return self.costs.amount(what, self._about_costliest(what, random.Random(0)))

    def uniforms(self) -> list[Architecture]:
        """Return the architectures within the budget whose blocks are all equal."""
        return [one for one in self.space.uniforms() if self._meets(one)]

    def largest_uniform(self) -> Architecture | None:
        """Return the largest network within the budget whose blocks are all equal, if any.

        It has the most of the first quantity with an upper limit, then parameters, then MACs. If
        none uses enough of the budget (`min_use`), it is the largest of those that meet it.
        """
        order = [*self.budget.capped()[:1], "params", "macs"]

        def key(one: Architecture) -> tuple[float, ...]:
            return tuple(self.costs.amount(what, one) for what in order)

        found = self.uniforms() or filter(self.allows, self.space.uniforms())
        return max(found, key=key, default=None)

    def __iter__(self) -> Iterator[Architecture]:
        """Yield every architecture within the budget once, in a fixed order."""
        for cells, budget in zip(self._cells, self._budgets, strict=True):
            for one in cells.networks():
                if cells.exact or budget.allows(self._amounts(one)):
                    yield one

    def _each(self, what: str) -> Iterator[Cell]:
        """Yield every cell, with the sums of one more quantity."""
        for cells in self._cells_for(what, paired=True):
            for pair in cells.pairs():
                yield Cell(cells, pair)

    def _cells_for(self, what: str, *, paired: bool = False) -> list[Cells]:
        """Return the cells of all budgets, that also track the sums of one more quantity."""
        if (what, paired) not in self._more_cells:
            self._more_cells[what, paired] = [
                Cells(self._tables, budget, what, paired=paired) for budget in self._budgets
            ]
        return self._more_cells[what, paired]


def _drawn(cells: Sequence[C], rng: random.Random) -> C:
    """Draw a cell with probability proportional to its number of architectures."""
    counts = list(itertools.accumulate(cell.ways for cell in cells))
    return cells[bisect.bisect_right(counts, rng.randrange(counts[-1]))]
