"""The search for the best uniform network, a baseline of every other search."""

from __future__ import annotations

import random

from masktas.space import Architecture, BudgetedSpace
from masktas.space.shapes import spread
from masktas.strategies.strategy import Strategy


class Uniforms(Strategy):
    """The networks within the budget whose blocks are all alike, one generation at a time.

    Args:
        candidates, population: see `Strategy`; nothing is drawn at random.
        limit: the largest number of networks to rate; if there are more, these are spread over
            patch size, width and depth.
    """

    def __init__(
        self, candidates: BudgetedSpace, *, population: int = 50, limit: int = 200
    ) -> None:
        super().__init__(candidates, population=population, generations=-(-limit // population))
        self._networks = spread(candidates.uniforms(), limit)

    @property
    def keeps(self) -> int:
        """1: only the best is wanted, and it determines nothing."""
        return 1

    @property
    def total(self) -> int:
        """The number of networks."""
        return len(self._networks)

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        start = len(self.history)
        return dict.fromkeys(self._networks[start : start + self.population], "uniform")
