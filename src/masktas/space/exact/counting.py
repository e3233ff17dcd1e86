"""Sequences of choices of one half of the blocks, heads or MLPs, counted by their cost.

The halves choose independently, and both add to the same sums. So a space is described by two small
tables: how many sequences of heads, and how many of MLPs, reach each sum.
"""

from __future__ import annotations

import bisect
import itertools
import math
import operator
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Steps between the smallest and the largest choice, of the first sum and of the others; None is
# exact. The sums of one half are strongly correlated, so the first one matters most.
RESOLUTIONS: list[tuple[int | None, int | None]] = [(None, None)]
RESOLUTIONS += [(None, steps) for steps in (256, 64, 16, 4, 0)]
RESOLUTIONS += [(steps, 0) for steps in (256, 128, 64, 32, 16, 8, 4, 2, 1)]

Sums = dict[int, int]  # number of sequences by packed sum
Ways = dict[int, Sums]  # by the highest level among their choices


class Choice(NamedTuple):
    """What one choice adds to each sum, and its level (of a sequence the highest counts)."""

    amounts: tuple[int, ...]
    level: int = 0


class State(NamedTuple):
    """All sequences with one highest level and one packed sum; sums are from `low` to `high`."""

    level: int
    key: int
    ways: int
    low: tuple[int, ...]
    high: tuple[int, ...]


class Grid:
    """One sum in whole steps: exact in steps of the greatest common divisor, or coarser.

    Args:
        values: amount of each choice.
        resolution: maximum steps between the smallest and the largest choice; None for exact.

    Attributes:
        steps: amount of each choice in steps above the smallest choice.
    """

    def __init__(self, values: Sequence[int], resolution: int | None) -> None:
        self._least, width = min(values), max(values) - min(values)
        self._unit = math.gcd(*(value - self._least for value in values)) or 1
        exact = width // self._unit
        most = exact if resolution is None else min(exact, resolution)
        self.exact = most == exact
        self.steps = [
            (2 * (value - self._least) * most + width) // (2 * width) if width else 0
            for value in values
        ]

    def total(self, steps: int, depth: int) -> int:
        """Return the sum of `depth` choices with `steps` steps in total; only if exact."""
        return self._least * depth + self._unit * steps


class ChoiceCounts:
    """Numbers of sequences of choices by state.

    Args:
        choices: of one block.
        depth: maximum number of blocks.
        most: maximum number of states. If there are more, sums are rounded to coarser and coarser
            steps, and states have bounds of their sums.

    Attributes:
        exact: whether states are exact.
    """

    def __init__(self, choices: Sequence[Choice], depth: int, most: int) -> None:
        self._levels = [choice.level for choice in choices]
        self._columns = list(zip(*(choice.amounts for choice in choices), strict=True))
        tried = [(first, *[others] * (len(self._columns) - 1)) for first, others in RESOLUTIONS]
        for resolutions in dict.fromkeys(tried):
            pairs = zip(self._columns, resolutions, strict=True)
            self._take_grids([Grid(values, resolution) for values, resolution in pairs], depth)
            self._ways = self._count(depth, math.inf if resolutions == tried[-1] else most)
            if self._ways:
                break
        self._ends: list[tuple[list[Ways], list[Ways]]] = []
        if not self.exact:
            self._ends = [
                (self._extremes(column, depth, 1), self._extremes(column, depth, -1))
                for column in self._columns
            ]

    def _take_grids(self, grids: list[Grid], depth: int) -> None:
        """Pack the steps of all sums of a choice into one integer, its key."""
        self._grids = grids
        self.exact = all(grid.exact for grid in grids)
        self._spans = [max(grid.steps) * depth + 1 for grid in grids]
        self._strides = list(itertools.accumulate(self._spans, operator.mul, initial=1))[:-1]
        self._keys = [
            sum(map(operator.mul, steps, self._strides))
            for steps in zip(*(grid.steps for grid in grids), strict=True)
        ]

    def _count(self, depth: int, most: float) -> list[Ways]:
        """Count for 0, 1, 2... blocks; `[]` if there are too many states."""
        ways: list[Ways] = [{0: {0: 1}}]
        for _ in range(depth):
            after: Ways = {}
            for level, sums in ways[-1].items():
                for key, own in zip(self._keys, self._levels, strict=True):
                    reached = after.setdefault(max(level, own), {})
                    for total, count in sums.items():
                        reached[total + key] = reached.get(total + key, 0) + count
            if sum(map(len, after.values())) > most:
                return []
            ways.append(after)
        return ways

    def _extremes(self, values: Sequence[int], depth: int, sign: int) -> list[Ways]:
        """Find the least (`sign` 1) or largest (-1) sum of `values` in every state."""
        found: list[Ways] = [{0: {0: 0}}]
        for _ in range(depth):
            after: Ways = {}
            for level, sums in found[-1].items():
                for key, own, value in zip(self._keys, self._levels, values, strict=True):
                    reached = after.setdefault(max(level, own), {})
                    added = sign * value
                    for total, so_far in sums.items():
                        least = so_far + added
                        if least < reached.get(total + key, math.inf):
                            reached[total + key] = least
            found.append(after)
        return found

    def states(self, depth: int) -> list[State]:
        """Return the states of sequences of `depth` choices, in a fixed order."""
        return [
            State(level, key, count, *self._bounds(depth, level, key))
            for level, sums in self._ways[depth].items()
            for key, count in sums.items()
        ]

    def _bounds(self, depth: int, level: int, key: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if not self.exact:
            return (
                tuple(low[depth][level][key] for low, _ in self._ends),
                tuple(-high[depth][level][key] for _, high in self._ends),
            )
        totals = tuple(
            grid.total(key // stride % span, depth)
            for grid, stride, span in zip(self._grids, self._strides, self._spans, strict=True)
        )
        return totals, totals

    def _before(self, left: int, level: int, key: int) -> list[tuple[int, int, int, int]]:
        """List (choice, level, key, count) of sequences that lack one choice of a state."""
        found = []
        for choice, (step, own) in enumerate(zip(self._keys, self._levels, strict=True)):
            for before, sums in self._ways[left].items():
                count = sums.get(key - step, 0) if max(before, own) == level else 0
                if count:
                    found.append((choice, before, key - step, count))
        return found

    def draw(self, depth: int, state: State, rng: random.Random) -> list[int]:
        """Draw uniformly among the sequences of a state."""
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
