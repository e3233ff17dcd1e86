"""Costs of the choices of a space by patch size and width: the tables cells are built from."""

from __future__ import annotations

import itertools
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
MAX_PAIRS = 700_000  # of states of one patch size that are visited one by one

Stem = tuple[int, int]  # patch size and width: what everything outside the blocks depends on
Counts = dict[Stem, tuple[ChoiceCounts, ChoiceCounts]]  # of heads and of MLPs


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

    Attributes:
        stems: every patch size with every width, in a fixed order.
    """

    def __init__(self, space: SearchSpace, costs: Costs) -> None:
        self.space = space
        self.costs = costs
        self.number_bytes = cost.number_bytes(costs.precision)
        self.stems = list(itertools.product(space.patch_size, space.embed_dim))
        self._networks = {
            (patch, width): space.uniform(
                width, 1, space.num_heads[0], space.mlp_ratio[0], patch_size=patch
            )
            for patch, width in self.stems
        }
        self._counts: dict[tuple[tuple[str, ...], MemoryLevels, int], Counts] = {}

    def counts(
        self, sums: tuple[str, ...], levels: MemoryLevels, *, paired: bool = False
    ) -> Counts:
        """Return the counts of sequences of heads and of MLPs for every stem.

        Args:
            sums: of `SUMS`; states with different sums are kept apart.
            levels: of memory; states of different levels are kept apart.
            paired: whether states will be visited pair by pair.
        """
        space = self.space
        stems, depth = len(self.stems), max(space.depth)
        choices = len(space.num_heads) + len(space.mlp_ratio)
        most = MAX_ADDITIONS // (stems * depth * choices)
        if paired or levels.by_value or len(sums) > 1:
            groups = len(space.embed_dim) * len(space.depth)
            most = min(most, math.isqrt(MAX_PAIRS // groups))
        if (sums, levels, most) not in self._counts:
            self._counts[sums, levels, most] = {
                stem: (
                    ChoiceCounts(self._heads(sums, levels, stem), depth, most),
                    ChoiceCounts(self._mlps(sums, levels, stem), depth, most),
                )
                for stem in self.stems
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
        """Yield the smallest and largest amount of every stem and depth."""
        if what == "size":
            for (low, high), depth in zip(self._spans("params"), self._depths(), strict=True):
                header = cost.header_bytes(depth)
                yield low * self.number_bytes + header, high * self.number_bytes + header
            return
        for stem in self.stems:
            if what == "memory":
                levels = MemoryLevels(None, None, by_value=True)
                heads = [choice.level for choice in self._heads((), levels, stem)]
                mlps = [choice.level for choice in self._mlps((), levels, stem)]
                yield max(min(heads), min(mlps)), max(heads + mlps)
                continue
            heads = [choice.amounts[0] for choice in self._heads((what,), _NO_LEVELS, stem)]
            mlps = [choice.amounts[0] for choice in self._mlps((what,), _NO_LEVELS, stem)]
            for depth in self.space.depth:
                amount = self.stem_amount(what, stem)
                yield (
                    amount + depth * (min(heads) + min(mlps)),
                    amount + depth * (max(heads) + max(mlps)),
                )

    def _depths(self) -> list[int]:
        return [depth for _ in self.stems for depth in self.space.depth]

    def stem_amount(self, what: str, stem: Stem) -> int:
        """Return what everything outside the blocks adds to a sum."""
        if what == "latency":
            return ticks(self.costs.latency_model().stem[stem])
        one = self._networks[stem]
        amount = cost.stem_params(one) if what == "params" else cost.stem_macs(one)
        return amount + self.costs.of_decoder(what, one)

    def _tokens(self, stem: Stem) -> int:
        return self._networks[stem].num_patches + 1

    def _heads(self, sums: tuple[str, ...], levels: MemoryLevels, stem: Stem) -> list[Choice]:
        _, width = stem
        tokens = self._tokens(stem)
        return [
            Choice(
                tuple(self._attention(what, stem, heads) for what in sums),
                self._level(
                    levels,
                    stem,
                    cost.attention_memory(tokens, width, self.space.head_dim * heads),
                ),
            )
            for heads in self.space.num_heads
        ]

    def _mlps(self, sums: tuple[str, ...], levels: MemoryLevels, stem: Stem) -> list[Choice]:
        _, width = stem
        return [
            Choice(
                tuple(self._mlp(what, stem, hidden) for what in sums),
                self._level(levels, stem, cost.mlp_memory(self._tokens(stem), width, hidden)),
            )
            for hidden in (int(width * ratio) for ratio in self.space.mlp_ratio)
        ]

    def _level(self, levels: MemoryLevels, stem: Stem, numbers: int) -> int:
        """Return the level of a network with `numbers` live numbers at its costliest moment."""
        one = self._networks[stem]
        most = cost.held_memory(one) + max(numbers, cost.logits_memory(one))
        return levels.of(most * self.number_bytes)

    def _attention(self, what: str, stem: Stem, heads: int) -> int:
        if what == "latency":
            return ticks(self.costs.latency_model().attention[*stem, heads])
        _, width = stem
        inner = self.space.head_dim * heads
        if what == "params":
            return cost.attention_params(width, inner)
        return cost.attention_macs(self._tokens(stem), width, inner)

    def _mlp(self, what: str, stem: Stem, hidden: int) -> int:
        if what == "latency":
            return ticks(self.costs.latency_model().mlp[*stem, hidden])
        _, width = stem
        if what == "params":
            return cost.mlp_params(width, hidden)
        return cost.mlp_macs(self._tokens(stem), width, hidden)


_NO_LEVELS = MemoryLevels(None, None, by_value=False)
