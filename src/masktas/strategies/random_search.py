"""Random search, the baseline of every other strategy."""

from __future__ import annotations

import random

from masktas.space import Architecture
from masktas.strategies.strategy import Strategy


class RandomSearch(Strategy):
    """Every generation is drawn at random within the budget; ratings have no influence.

    The first generation is equal to that of every strategy that begins at random with its seed.
    """

    @property
    def keeps(self) -> int:
        """1: only the best is wanted, and it determines nothing."""
        return 1

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        chosen: dict[Architecture, str] = {}
        self._collect_random(chosen, rng)
        return chosen
