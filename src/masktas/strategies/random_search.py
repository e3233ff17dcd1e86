"""Random search: what every other strategy is held against."""

from __future__ import annotations

import random

from masktas.space import Architecture
from masktas.strategies.strategy import Strategy


class RandomSearch(Strategy):
    """Every generation is drawn at random within the budget, without regard to ratings.

    Its first generation is that of every strategy with the same seed which begins at random.
    """

    @property
    def keeps(self) -> int:
        """The best one alone: it is what was searched for."""
        return 1

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        chosen: dict[Architecture, str] = {}
        self._collect_random(chosen, rng)
        return chosen
