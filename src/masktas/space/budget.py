"""Budgets as data, and the part of a space that fits one: counted and sampled exactly.

Cost depends on an architecture only through its width `D`, its depth `L`, the sum of its heads
and the sum of its MLP widths (`cost`). So a space falls into a few thousand cells of equal
cost; whether a budget can be met, by how many architectures, and a draw among them need no
trial and error, however narrow the budget.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from masktas.errors import BudgetError
from masktas.space import cost
from masktas.space.architecture import Architecture
from masktas.space.space import SearchSpace

_SCALE = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}


def parse_quantity(text: str | int | float) -> int:
    """Read a count as people write it: `6M`, `1.3G`, `768`, `1e6`.

    Raises:
        BudgetError: if it is not a number, or not above 0.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e\+?[0-9]+)?)\s*([KMGBT]?)\s*", str(text), re.I)
    number = float(match[1]) * _SCALE[match[2].upper()] if match else 0.0
    value = round(number) if math.isfinite(number) else 0
    if value < 1:
        raise BudgetError(f"{text!r} is not a budget: write a number such as 6M, 1.3G or 5800000.")
    return value


def format_quantity(value: float) -> str:
    """Write a count as people read it: 5.77M, 1.28G."""
    for suffix in ("T", "G", "M", "K"):
        if value >= 0.9995 * _SCALE[suffix] >= 999.5:  # 999,500 rounds to 1M
            number = value / _SCALE[suffix]
            return f"{number:.3g}{suffix}" if number < 999.5 else f"{number:.0f}{suffix}"
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on cost, each included, each optional: parameters and multiply-accumulates."""

    min_params: int | None = None
    max_params: int | None = None
    min_macs: int | None = None
    max_macs: int | None = None

    def __post_init__(self) -> None:
        for what in ("params", "macs"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low is not None and high is not None and low > high:
                raise BudgetError(
                    f"--min-{what} {format_quantity(low)} is above --max-{what} "
                    f"{format_quantity(high)}: no network is between them."
                )

    def allows(self, params: int, macs: int) -> bool:
        """Say whether a network of this cost is within every limit."""
        return (
            (self.min_params is None or params >= self.min_params)
            and (self.max_params is None or params <= self.max_params)
            and (self.min_macs is None or macs >= self.min_macs)
            and (self.max_macs is None or macs <= self.max_macs)
        )

    def to_dict(self) -> dict[str, int]:
        """Return the limits that are set."""
        limits = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in limits.items() if value is not None}

    def __str__(self) -> str:
        ends = {"min": "at least", "max": "at most"}
        words = [
            f"{ends[name[:3]]} {format_quantity(value)} {name[4:]}"
            for name, value in self.to_dict().items()
        ]
        return ", ".join(words) if words else "no limit"


@dataclass(frozen=True, slots=True)
class Cell:
    """All architectures of one width, depth, sum of heads and sum of MLP widths."""

    embed_dim: int
    depth: int
    heads: int
    mlp_dim: int
    params: int
    macs: int
    count: int


class BudgetedSpace:
    """The architectures of a space that meet a budget.

    Raises:
        BudgetError: at once, with the feasible range, if there is none.
    """

    def __init__(self, space: SearchSpace, budget: Budget) -> None:
        self.space = space
        self.budget = budget
        self._head_ways = _ways(space.num_heads, max(space.depth))
        self._mlp_ways = {
            width: _ways([int(width * ratio) for ratio in space.mlp_ratio], max(space.depth))
            for width in space.embed_dim
        }
        everything = list(self._all_cells())
        self.cells = [cell for cell in everything if budget.allows(cell.params, cell.macs)]
        if not self.cells:
            raise BudgetError(_infeasible(space, budget, everything))
        block = len(space.num_heads) * len(space.mlp_ratio)
        # P(cell) when each dimension is drawn uniformly, times block**max_depth: whole numbers.
        weights = [cell.count * block ** (max(space.depth) - cell.depth) for cell in self.cells]
        self._cumulative = list(itertools.accumulate(weights))
        self._by_size: list[Cell] = []
        self._sizes: list[int] = []

    def size(self) -> int:
        """Return the exact number of architectures within the budget."""
        return sum(cell.count for cell in self.cells)

    def cost_range(self, what: str) -> tuple[int, int]:
        """Return the smallest and largest `params` or `macs` within the budget."""
        values = [getattr(cell, what) for cell in self.cells]
        return min(values), max(values)

    def contains(self, architecture: Architecture) -> bool:
        """Say whether the architecture is of the space and within the budget."""
        return self.space.check(architecture) is None and self.budget.allows(
            cost.params(architecture), cost.macs(architecture)
        )

    def sample(self, rng: random.Random) -> Architecture:
        """Draw one as `SearchSpace.sample` would, given that it meets the budget."""
        at = rng.randrange(self._cumulative[-1])
        return self._draw_from(self.cells[bisect.bisect_right(self._cumulative, at)], rng)

    def _draw_from(self, cell: Cell, rng: random.Random) -> Architecture:
        """Draw one of a cell's architectures, all equally likely."""
        ratios = self.space.mlp_ratio
        widths = [int(cell.embed_dim * ratio) for ratio in ratios]
        heads = _draw(self.space.num_heads, self._head_ways, cell.depth, cell.heads, rng)
        hidden = _draw(widths, self._mlp_ways[cell.embed_dim], cell.depth, cell.mlp_dim, rng)
        return self.space.build(
            cell.embed_dim,
            tuple(self.space.num_heads[choice] for choice in heads),
            tuple(ratios[choice] for choice in hidden),
        )

    def sample_evenly(self, rng: random.Random) -> Architecture:
        """Draw a number of parameters uniformly, then an architecture of about that many.

        `sample` draws most from the middle of the range, where most architectures are.
        """
        if not self._by_size:
            self._by_size = sorted(self.cells, key=lambda cell: (cell.params, cell.macs))
            self._sizes = [cell.params for cell in self._by_size]
        wanted = rng.uniform(self._sizes[0], self._sizes[-1])
        after = bisect.bisect_left(self._sizes, wanted)
        before = max(0, after - 1)
        nearest = min(before, after, key=lambda at: abs(self._sizes[at] - wanted))
        return self._draw_from(self._by_size[nearest], rng)

    def costliest(self, rng: random.Random) -> Architecture:
        """Draw one of those with the most multiply-accumulates within the budget."""
        return self._draw_from(max(self.cells, key=lambda cell: (cell.macs, cell.params)), rng)

    def largest_uniform(self) -> Architecture | None:
        """Return the largest network within the budget whose blocks are all alike, if any."""
        fitting = (one for one in self.space.uniforms() if self.contains(one))
        return max(fitting, key=lambda one: (cost.params(one), cost.macs(one)), default=None)

    def _all_cells(self) -> Iterator[Cell]:
        space = self.space
        inner, tokens = space.head_dim, space.smallest.num_patches + 1
        for width in space.embed_dim:
            stem = space.uniform(width, space.depth[0], space.num_heads[0], space.mlp_ratio[0])
            stem_params, stem_macs = cost.stem_params(stem), cost.stem_macs(stem)
            for depth in space.depth:
                for heads, head_ways in self._head_ways[depth].items():
                    # attention's cost is affine in heads, an MLP's in its width
                    attention_params = cost.attention_params(width, inner * heads)
                    attention_params += (depth - 1) * cost.attention_params(width, 0)
                    attention_macs = cost.attention_macs(tokens, width, inner * heads)
                    for hidden, mlp_ways in self._mlp_ways[width][depth].items():
                        mlp_params = cost.mlp_params(width, hidden)
                        mlp_params += (depth - 1) * cost.mlp_params(width, 0)
                        yield Cell(
                            width, depth, heads, hidden,
                            stem_params + attention_params + mlp_params,
                            stem_macs + attention_macs + cost.mlp_macs(tokens, width, hidden),
                            head_ways * mlp_ways,
                        )  # fmt: skip


def _ways(values: Sequence[int], depth: int) -> list[Counter[int]]:
    """Count, for 0 to `depth` blocks, in how many ways choices of `values` reach each sum."""
    ways = [Counter({0: 1})]
    for _ in range(depth):
        sums: Counter[int] = Counter()
        for total, count in ways[-1].items():
            for value in values:
                sums[total + value] += count
        ways.append(sums)
    return ways


def _draw(
    values: Sequence[int], ways: list[Counter[int]], depth: int, total: int, rng: random.Random
) -> list[int]:
    """Draw the indices of `depth` choices that sum to `total`, all such lists equally likely."""
    drawn = []
    for left in range(depth - 1, -1, -1):
        counts = [ways[left][total - value] for value in values]
        choice = bisect.bisect_right(list(itertools.accumulate(counts)), rng.randrange(sum(counts)))
        total -= values[choice]
        drawn.append(choice)
    return drawn


def _infeasible(space: SearchSpace, budget: Budget, cells: list[Cell]) -> str:
    params = [cell.params for cell in cells]
    macs = [cell.macs for cell in cells]
    return (
        f"No architecture of space {space.name} meets the budget ({budget}). The space ranges from "
        f"{min(params)} to {max(params)} parameters and from {min(macs)} to {max(macs)} MACs: "
        "choose limits within that, or another space."
    )
