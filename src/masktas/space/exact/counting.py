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

# Steps between the smallest and the largest choice, of the first sum and of the others; None is
# exact. The sums of one side grow together, so the first alone says nearly all.
RESOLUTIONS: list[tuple[int | None, int | None]] = [(None, None)]
RESOLUTIONS += [(None, steps) for steps in (256, 64, 16, 4, 0)]
RESOLUTIONS += [(steps, 0) for steps in (256, 128, 64, 32, 16, 8, 4, 2, 1)]

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
        resolution: steps between the smallest and the largest choice, at most; None for exact.

    Attributes:
        steps: what each choice adds, in steps, the smallest choice 0.
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
        """Return the sum of `depth` choices that make so many steps, where it is exact."""
        return self._least * depth + self._unit * steps


class ChoiceCounts:
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
        """Pack the steps of all sums into one whole number a choice, its key."""
        self._grids = grids
        self.exact = all(grid.exact for grid in grids)
        self._spans = [max(grid.steps) * depth + 1 for grid in grids]
        self._strides = list(itertools.accumulate(self._spans, operator.mul, initial=1))[:-1]
        self._keys = [
            sum(map(operator.mul, steps, self._strides))
            for steps in zip(*(grid.steps for grid in grids), strict=True)
        ]

    def _count(self, depth: int, most: float) -> list[Ways]:
        """Count for 0, 1, 2... blocks; `[]` where there are too many states."""
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
