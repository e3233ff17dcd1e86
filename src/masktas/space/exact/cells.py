"""Architectures within a budget as cells of equal cost: counted, drawn and bounded.

Every cost is a sum over blocks (memory a maximum), and the cost of a block is the sum of its
attention half and its MLP half (`cost`, `latency`). So the cost of a network of one patch size,
width and depth depends on a pair of states only, one of its heads and one of its MLPs (`counting`);
such a pair is a cell. Feasibility, counts and draws therefore need no trial and error, however
narrow the budget.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from masktas.space import cost
from masktas.space.architecture import Architecture
from masktas.space.budget import Budget, tick_limits
from masktas.space.exact.counting import State
from masktas.space.exact.tables import SUMS, MemoryLevels, Stem, Tables
from masktas.space.latency import TICKS


class SortedStates:
    """States of the MLPs, sorted by their first sum."""

    def __init__(self, states: list[State]) -> None:
        self.states = sorted(states, key=lambda state: (state.low, state.level))
        self._lows = [state.low[0] for state in self.states]
        # Sorted too: if states are not exact, a range may contain a few that do not belong to it.
        self._highs = list(itertools.accumulate((state.high[0] for state in self.states), max))
        self.totals = [0, *itertools.accumulate(state.ways for state in self.states)]

    def between(self, least: float, most: float) -> tuple[int, int]:
        """Return start and stop of the states whose first sum may be from `least` to `most`."""
        return bisect.bisect_left(self._highs, least), bisect.bisect_right(self._lows, most)


class Group:
    """All networks of one patch size, width and depth.

    Args:
        stem, depth: of the networks.
        fixed: what everything outside the blocks adds to each sum.
        limits: minimum and maximum of each sum, over blocks only.
        floor: the minimum level that heads or MLPs must reach.
        partners: states of the MLPs: all, and those that reach the floor.
    """

    def __init__(
        self,
        stem: Stem,
        depth: int,
        fixed: tuple[int, ...],
        limits: Sequence[tuple[float, float]],
        floor: float,
        partners: tuple[SortedStates, SortedStates],
    ) -> None:
        self.stem, self.depth, self.fixed = stem, depth, fixed
        self._limits, self._floor = limits, floor
        self._all, self._reaching = partners

    def _range(self, heads: State) -> tuple[SortedStates, int, int]:
        partners = self._all if heads.level >= self._floor else self._reaching
        least, most = self._limits[0]
        return partners, *partners.between(least - heads.high[0], most - heads.low[0])

    def partners(self, heads: State) -> list[State]:
        """Return the states of the MLPs that meet the limits together with `heads`."""
        partners, start, stop = self._range(heads)
        found = partners.states[start:stop]
        for index, (least, most) in enumerate(self._limits[1:], start=1):
            low, high = most - heads.low[index], least - heads.high[index]
            found = [
                state for state in found if state.low[index] <= low and state.high[index] >= high
            ]
        return found

    def count(self, heads: State) -> int:
        """Return the number of sequences of MLPs that meet the limits together with `heads`."""
        if len(self._limits) > 1:
            return sum(state.ways for state in self.partners(heads))
        partners, start, stop = self._range(heads)
        return partners.totals[stop] - partners.totals[start] if stop > start else 0


class Pair(NamedTuple):
    """A cell: networks of one group with these states of heads and MLPs."""

    group: Group
    heads: State
    mlps: State

    @property
    def ways(self) -> int:
        """The number of networks in the cell."""
        return self.heads.ways * self.mlps.ways


class HeadsRow(NamedTuple):
    """All cells with the same state of heads."""

    group: Group
    heads: State
    ways: int


class Cells:
    """The networks of a space within a budget, grouped by cost.

    Args:
        tables: of the space.
        budget: the limits.
        extra: a quantity for `span` and `amount` besides the limited ones.
        paired: whether cells will be visited one by one (`pairs`).

    Attributes:
        exact: whether all networks of a cell cost the same and meet the budget. If there are too
            many states, sums are rounded: cells then contain every network within the budget, and
            some others.
        rows: the rows that are not empty.
    """

    def __init__(
        self, tables: Tables, budget: Budget, extra: str | None = None, *, paired: bool = False
    ) -> None:
        self._space, self._budget, self._tables = tables.space, budget, tables
        wanted = {*budget.limited(), extra}
        if "size" in wanted:
            wanted.add("params")
        self.sums = tuple(what for what in SUMS if what in wanted) or ("params",)
        least, most = budget.limits("memory")
        self._levels = MemoryLevels(least, most, by_value=extra == "memory")
        self._counts = tables.counts(self.sums, self._levels, paired=paired)
        self.exact = all(half.exact for halves in self._counts.values() for half in halves)
        self.rows = list(self._all_rows())
        block = len(self._space.num_heads) * len(self._space.mlp_ratio)
        deepest = max(self._space.depth)
        # P(row) when each dimension is drawn uniformly, times block**deepest: whole numbers.
        weights = [row.ways * block ** (deepest - row.group.depth) for row in self.rows]
        self._of_patch_size = {
            size: self._running(weights, size) for size in self._space.patch_size
        }
        self._partners: dict[int, tuple[list[State], list[int]]] = {}

    @property
    def count(self) -> int:
        """The number of networks."""
        return sum(row.ways for row in self.rows)

    def _running(self, weights: Sequence[int], patch_size: int) -> tuple[list[int], list[int]]:
        """Return the rows of a patch size, and the running sums of their weights."""
        rows = [at for at, row in enumerate(self.rows) if row.group.stem[0] == patch_size]
        return rows, list(itertools.accumulate(weights[at] for at in rows))

    def weight(self, patch_size: int) -> int:
        """The probability to be in a cell, among networks of a patch size; in whole units."""
        return next(reversed(self._of_patch_size[patch_size][1]), 0)

    def draw(self, patch_size: int, rng: random.Random) -> Architecture:
        """Draw as `SearchSpace.sample` does, conditioned on a patch size and on being in a cell."""
        rows, sums = self._of_patch_size[patch_size]
        at = rows[bisect.bisect_right(sums, rng.randrange(sums[-1]))]
        if at not in self._partners:
            states = self.rows[at].group.partners(self.rows[at].heads)
            self._partners[at] = (states, list(itertools.accumulate(s.ways for s in states)))
        states, counts = self._partners[at]
        mlps = states[bisect.bisect_right(counts, rng.randrange(counts[-1]))]
        return self.draw_from(Pair(self.rows[at].group, self.rows[at].heads, mlps), rng)

    def draw_from(self, pair: Pair, rng: random.Random) -> Architecture:
        """Draw uniformly among the networks of a cell."""
        group = pair.group
        heads, mlps = self._counts[group.stem]
        return self._build(
            group.stem,
            heads.draw(group.depth, pair.heads, rng),
            mlps.draw(group.depth, pair.mlps, rng),
        )

    def pairs(self) -> Iterator[Pair]:
        """Yield every cell, in a fixed order."""
        for group, heads, _ in self.rows:
            for mlps in group.partners(heads):
                yield Pair(group, heads, mlps)

    def networks(self) -> Iterator[Architecture]:
        """Yield every network, in a fixed order."""
        for group, heads, mlps in self.pairs():
            of_heads, of_mlps = self._counts[group.stem]
            for first in of_heads.sequences(group.depth, heads.level, heads.key):
                for second in of_mlps.sequences(group.depth, mlps.level, mlps.key):
                    yield self._build(group.stem, first, second)

    def _build(self, stem: Stem, heads: Sequence[int], mlps: Sequence[int]) -> Architecture:
        patch, width = stem
        return self._space.build(
            width,
            tuple(self._space.num_heads[choice] for choice in heads),
            tuple(self._space.mlp_ratio[choice] for choice in mlps),
            patch_size=patch,
        )

    def amount(self, what: str, pair: Pair) -> tuple[int, int]:
        """Return the bounds of a cell's amounts of one of `sums`."""
        at = self.sums.index(what)
        fixed = pair.group.fixed[at]
        return (
            fixed + pair.heads.low[at] + pair.mlps.low[at],
            fixed + pair.heads.high[at] + pair.mlps.high[at],
        )

    def span(self, what: str) -> tuple[float, float]:
        """Return the smallest and the largest amount of a quantity; needs at least one row.

        Latency in ms. If cells are not exact, these are outer bounds.
        """
        ends = [self._row_span("params" if what == "size" else what, row) for row in self.rows]
        if what == "size":
            ends = [
                (self._size(low, row), self._size(high, row))
                for (low, high), row in zip(ends, self.rows, strict=True)
            ]
        span: tuple[float, float] = min(low for low, _ in ends), max(high for _, high in ends)
        if what == "latency":
            span = span[0] / TICKS, span[1] / TICKS
        least, most = self._budget.limits(what)
        return (
            span[0] if least is None else max(span[0], least),
            span[1] if most is None else min(span[1], most),
        )

    def _size(self, params: int, row: HeadsRow) -> int:
        return params * self._tables.number_bytes + cost.header_bytes(row.group.depth)

    def _row_span(self, what: str, row: HeadsRow) -> tuple[int, int]:
        states, heads = row.group.partners(row.heads), row.heads
        if what == "memory":
            levels = [state.level for state in states]
            return max(heads.level, min(levels)), max(heads.level, max(levels))
        at = self.sums.index(what)
        fixed = row.group.fixed[at]
        return (
            fixed + heads.low[at] + min(state.low[at] for state in states),
            fixed + heads.high[at] + max(state.high[at] for state in states),
        )

    # --- construction

    def _all_rows(self) -> Iterator[HeadsRow]:
        floor, ceiling = self._levels.limits
        for stem, depth in itertools.product(self._tables.stems, self._space.depth):
            heads, mlps = (
                [state for state in half.states(depth) if state.level <= ceiling]
                for half in self._counts[stem]
            )
            reaching = [state for state in mlps if state.level >= floor]
            fixed = tuple(self._tables.stem_amount(what, stem) for what in self.sums)
            limits = [
                (least - amount, most - amount)
                for (least, most), amount in zip(self._limits(depth), fixed, strict=True)
            ]
            group = Group(
                stem, depth, fixed, limits, floor, (SortedStates(mlps), SortedStates(reaching))
            )
            for state in heads:
                if count := group.count(state):
                    yield HeadsRow(group, state, state.ways * count)

    def _limits(self, depth: int) -> list[tuple[float, float]]:
        """Return the minimum and maximum of every sum; a limit on size limits parameters."""
        limits = []
        for what in self.sums:
            low, high = self._budget.limits(what)
            ends = (-math.inf if low is None else low, math.inf if high is None else high)
            if what == "latency":
                ends = tick_limits(self._budget)
            elif what == "params":
                ends = (
                    max(ends[0], self._by_size(depth)[0]),
                    min(ends[1], self._by_size(depth)[1]),
                )
            limits.append(ends)
        return limits

    def _by_size(self, depth: int) -> tuple[float, float]:
        low, high = self._budget.limits("size")
        header, number = cost.header_bytes(depth), self._tables.number_bytes
        return (
            -math.inf if low is None else -((header - math.ceil(low)) // number),
            math.inf if high is None else (math.floor(high) - header) // number,
        )
