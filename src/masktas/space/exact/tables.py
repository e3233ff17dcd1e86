"""Costs of the choices of a space for every width: the tables that cells are built from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from masktas.space import cost
from masktas.space.budget import Budget
from masktas.space.costs import Costs
from masktas.space.exact.counting import Choice, ChoiceCounts
from masktas.space.latency import TICKS, ticks
from masktas.space.space import SearchSpace

SUMS = ("params", "macs", "latency")  # size follows from params and depth
MAX_ADDITIONS = 2_000_000  # to count the choices of a space: tenths of a second
MAX_PAIRS = 700_000  # of states that are visited one by one

CountsByWidth = dict[int, tuple[ChoiceCounts, ChoiceCounts]]  # of heads and of MLPs


@dataclass(frozen=True, slots=True)
class MemoryLevels:
    """Memory of a choice as a level: below, within or above two limits, or the exact value."""

    least: float | None
    most: float | None
    by_value: bool

    def of(self, memory: int) -> int:
        """Return the level: 0 below, 1 within, 2 above the limits; or the memory in bytes."""
        if self.by_value:
            return memory
        if self.most is not None and memory > self.most:
            return 2
        return 1 if self.least is not None and memory >= self.least else 0

    @property
    def limits(self) -> tuple[float, float]:
        """The minimum and the maximum level of a network."""
        if self.by_value:
            return self.least or 0, math.inf if self.most is None else self.most
        return 0 if self.least is None else 1, 1


class Tables:
    """Costs of the choices of a space, and counts of their sequences, each computed once.

    Args:
        space: the space.
        costs: of its networks.
    """

    def __init__(self, space: SearchSpace, costs: Costs) -> None:
        self.space = space
        self.costs = costs
        self.number_bytes = cost.number_bytes(costs.precision)
        self._tokens = space.largest.num_patches + 1
        self._stems = {
            width: space.uniform(width, 1, space.num_heads[0], space.mlp_ratio[0])
            for width in space.embed_dim
        }
        self._counts: dict[tuple[tuple[str, ...], MemoryLevels, int], CountsByWidth] = {}

    def counts(
        self, sums: tuple[str, ...], levels: MemoryLevels, *, paired: bool = False
    ) -> CountsByWidth:
        """Return the counts of sequences of heads and of MLPs for every width.

        Args:
            sums: of `SUMS`; states with different sums are kept apart.
            levels: of memory; states of different levels are kept apart.
            paired: whether states will be visited pair by pair.
        """
        space = self.space
        widths, depth = len(space.embed_dim), max(space.depth)
        choices = len(space.num_heads) + len(space.mlp_ratio)
        most = MAX_ADDITIONS // (widths * depth * choices)
        if paired or levels.by_value or len(sums) > 1:
            most = min(most, math.isqrt(MAX_PAIRS // (widths * len(space.depth))))
        if (sums, levels, most) not in self._counts:
            self._counts[sums, levels, most] = {
                width: (
                    ChoiceCounts(self._heads(sums, levels, width), depth, most),
                    ChoiceCounts(self._mlps(sums, levels, width), depth, most),
                )
                for width in space.embed_dim
            }
        return self._counts[sums, levels, most]

    def span(self, what: str) -> tuple[float, float]:
        """Return the smallest and largest amount of a quantity in the whole space."""
        ends = list(self._spans(what))
        least, most = min(low for low, _ in ends), max(high for _, high in ends)
        return (least / TICKS, most / TICKS) if what == "latency" else (least, most)

    def may_meet(self, budget: Budget) -> bool:
        """Return whether each limit alone can be met: a fast necessary condition."""
        for what in budget.limited():
            (low, high), (least, most) = budget.limits(what), self.span(what)
            if (low is not None and low > most) or (high is not None and high < least):
                return False
        return True

    def _spans(self, what: str) -> Iterator[tuple[int, int]]:
        """Yield the smallest and largest amount of every width and depth."""
        if what == "size":
            for (low, high), depth in zip(self._spans("params"), self._depths(), strict=True):
                header = cost.header_bytes(depth)
                yield low * self.number_bytes + header, high * self.number_bytes + header
            return
        for width in self.space.embed_dim:
            if what == "memory":
                levels = MemoryLevels(None, None, by_value=True)
                heads = [choice.level for choice in self._heads((), levels, width)]
                mlps = [choice.level for choice in self._mlps((), levels, width)]
                yield max(min(heads), min(mlps)), max(heads + mlps)
                continue
            heads = [choice.amounts[0] for choice in self._heads((what,), _NO_LEVELS, width)]
            mlps = [choice.amounts[0] for choice in self._mlps((what,), _NO_LEVELS, width)]
            for depth in self.space.depth:
                stem = self.stem(what, width)
                yield (
                    stem + depth * (min(heads) + min(mlps)),
                    stem + depth * (max(heads) + max(mlps)),
                )

    def _depths(self) -> list[int]:
        return [depth for _ in self.space.embed_dim for depth in self.space.depth]

    def stem(self, what: str, width: int) -> int:
        """Return what everything outside the blocks adds to a sum."""
        if what == "latency":
            return ticks(self.costs.latency_model().stem[width])
        stem = self._stems[width]
        return cost.stem_params(stem) if what == "params" else cost.stem_macs(stem)

    def _heads(self, sums: tuple[str, ...], levels: MemoryLevels, width: int) -> list[Choice]:
        return [
            Choice(
                tuple(self._attention(what, width, heads) for what in sums),
                self._level(
                    levels,
                    width,
                    cost.attention_memory(self._tokens, width, self.space.head_dim * heads),
                ),
            )
            for heads in self.space.num_heads
        ]

    def _mlps(self, sums: tuple[str, ...], levels: MemoryLevels, width: int) -> list[Choice]:
        return [
            Choice(
                tuple(self._mlp(what, width, hidden) for what in sums),
                self._level(levels, width, cost.mlp_memory(self._tokens, width, hidden)),
            )
            for hidden in (int(width * ratio) for ratio in self.space.mlp_ratio)
        ]

    def _level(self, levels: MemoryLevels, width: int, numbers: int) -> int:
        """Return the level of a network with `numbers` live numbers at its costliest moment."""
        stem = self._stems[width]
        most = cost.held_memory(stem) + max(numbers, cost.counted_classes(stem))
        return levels.of(most * self.number_bytes)

    def _attention(self, what: str, width: int, heads: int) -> int:
        if what == "latency":
            return ticks(self.costs.latency_model().attention[width, heads])
        inner = self.space.head_dim * heads
        if what == "params":
            return cost.attention_params(width, inner)
        return cost.attention_macs(self._tokens, width, inner)

    def _mlp(self, what: str, width: int, hidden: int) -> int:
        if what == "latency":
            return ticks(self.costs.latency_model().mlp[width, hidden])
        if what == "params":
            return cost.mlp_params(width, hidden)
        return cost.mlp_macs(self._tokens, width, hidden)


_NO_LEVELS = MemoryLevels(None, None, by_value=False)
