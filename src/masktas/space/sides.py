"""One side of a network's blocks, the heads or the MLPs: its choices counted by what they cost.

The sides choose independently, and both add to the same sums. So what a space holds is known from
two small tables: how many sequences of heads, and how many of MLPs, reach which sums.
"""

from __future__ import annotations

import bisect
import itertools
import math
import operator
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

RESOLUTIONS = (1024, 256, 128, 64, 32, 16, 8, 4, 2, 1)

Sums = dict[int, int]  # how many sequences reach a packed sum
Ways = dict[int, Sums]  # by the highest level among their choices


class Choice(NamedTuple):
    """What one choice adds to the sums that matter, and its level (only the highest counts)."""

    amounts: tuple[int, ...]
    level: int = 0


class State(NamedTuple):
    """All sequences of one highest level and one packed sum: their sums are in `low` to `high`."""

    level: int
    key: int
    ways: int
    low: tuple[int, ...]
    high: tuple[int, ...]


class Grid:
    """One sum in whole steps: exact in steps of the greatest common divisor, or coarser.

    Args:
        values: what each choice adds.
        depth: choices of a sequence, at most.
        resolution: steps between the smallest and the largest choice, at most; None for exact.

    Attributes:
        steps: what each choice adds, in steps, the smallest choice 0.
        span: how many sums there can be.
    """

    def __init__(self, values: Sequence[int], depth: int, resolution: int | None) -> None:
        self._least, self._most = min(values), max(values)
        self._width = self._most - self._least
        exact = self._width // (math.gcd(*(value - self._least for value in values)) or 1)
        self._steps = exact if resolution is None else min(exact, resolution)
        self.exact = self._steps == exact
        self.steps = [self._nearest(value - self._least) for value in values]
        errors = [
            (value - self._least) * self._steps - step * self._width
            for value, step in zip(values, self.steps, strict=True)
        ]
        self._below, self._above = min(errors), max(errors)  # in units of width / steps
        self.span = self._steps * depth + 1

    def _nearest(self, value: int) -> int:
        return (2 * value * self._steps + self._width) // (2 * self._width) if self._width else 0

    def bounds(self, total: int, depth: int) -> tuple[int, int]:
        """Return between what the sum of `depth` choices is that makes so many steps."""
        least, most = depth * self._least, depth * self._most
        if not self._width:
            return least, least
        low = -((-total * self._width - depth * self._below) // self._steps)
        high = (total * self._width + depth * self._above) // self._steps
        return max(least, least + low), min(most, least + high)


class Side:
    """How many sequences of choices reach which state.

    Args:
        choices: of one block.
        depth: blocks, at most.
        most: states to keep at most. Where there are more, sums are rounded to ever coarser
            steps, and states say between what their sums are.

    Attributes:
        exact: whether states are exact.
    """

    def __init__(self, choices: Sequence[Choice], depth: int, most: int) -> None:
        self._levels = [choice.level for choice in choices]
        columns = list(zip(*(choice.amounts for choice in choices), strict=True))
        for resolution in (None, *RESOLUTIONS):
            self._grids = [Grid(values, depth, resolution) for values in columns]
            self.exact = all(grid.exact for grid in self._grids)
            self._strides = list(
                itertools.accumulate((grid.span for grid in self._grids), operator.mul, initial=1)
            )[:-1]
            self._keys = [
                sum(
                    grid.steps[index] * by
                    for grid, by in zip(self._grids, self._strides, strict=True)
                )
                for index in range(len(choices))
            ]
            self._ways = self._count(depth, math.inf if resolution == RESOLUTIONS[-1] else most)
            if len(self._ways) > depth:
                return

    def _count(self, depth: int, most: float) -> list[Ways]:
        """Count for 0, 1, 2... blocks; stop where there are too many states."""
        ways: list[Ways] = [{0: {0: 1}}]
        while len(ways) <= depth and sum(map(len, ways[-1].values())) <= most:
            after: Ways = {}
            for level, sums in ways[-1].items():
                for key, own in zip(self._keys, self._levels, strict=True):
                    reached = after.setdefault(max(level, own), {})
                    for total, count in sums.items():
                        reached[total + key] = reached.get(total + key, 0) + count
            ways.append(after)
        return ways if sum(map(len, ways[-1].values())) <= most else []

    def states(self, depth: int) -> list[State]:
        """Return the states of sequences of `depth` choices, in a fixed order."""
        return [
            State(level, key, count, *self._bounds(key, depth))
            for level, sums in self._ways[depth].items()
            for key, count in sums.items()
        ]

    def _bounds(self, key: int, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ends = [
            grid.bounds(key // stride % grid.span, depth)
            for grid, stride in zip(self._grids, self._strides, strict=True)
        ]
        return tuple(low for low, _ in ends), tuple(high for _, high in ends)

    def _before(self, left: int, level: int, key: int) -> list[tuple[int, int, int, int]]:
        """List (choice, level, key, count) of the sequences of `left` that one choice completes."""
        found = []
        for choice, (step, own) in enumerate(zip(self._keys, self._levels, strict=True)):
            for before, sums in self._ways[left].items():
                count = sums.get(key - step, 0) if max(before, own) == level else 0
                if count:
                    found.append((choice, before, key - step, count))
        return found

    def draw(self, depth: int, state: State, rng: random.Random) -> list[int]:
        """Draw the choices of one sequence of a state, all equally likely."""
        level, key, drawn = state.level, state.key, []
        for left in range(depth - 1, -1, -1):
            before = self._before(left, level, key)
            counts = list(itertools.accumulate(count for *_, count in before))
            choice, level, key, _ = before[bisect.bisect_right(counts, rng.randrange(counts[-1]))]
            drawn.append(choice)
        return drawn

    def sequences(self, depth: int, level: int, key: int) -> Iterator[tuple[int, ...]]:
        """Yield the choices of every sequence of a state, in a fixed order."""
        if not depth:
            yield ()
            return
        for choice, before, rest, _ in self._before(depth - 1, level, key):
            for others in self.sequences(depth - 1, before, rest):
                yield (choice, *others)
