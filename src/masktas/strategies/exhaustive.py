"""Exhaustive search of a small space: the only strategy that is certain to find the best."""

from __future__ import annotations

import itertools
import random

from masktas.errors import BudgetError
from masktas.space import Architecture, BudgetedSpace
from masktas.strategies.strategy import Strategy, require_counts


class Exhaustive(Strategy):
    """Every architecture within the budget, in a fixed order, one generation at a time.

    Args:
        candidates, population, patience, seed: see `Strategy`; nothing is drawn at random.
        limit: the largest number of architectures to rate.

    Raises:
        BudgetError: if there are more.
    """

    def __init__(
        self,
        candidates: BudgetedSpace,
        *,
        population: int = 50,
        limit: int = 100_000,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        size = candidates.size()
        if size > limit:
            raise BudgetError(
                f"Space {candidates.space.name} has {size:,} architectures within the budget "
                f"({candidates.budget}), and an exhaustive search rates at most {limit:,}: choose "
                "a narrower budget, a smaller space, or another strategy."
            )
        require_counts(population=population)
        super().__init__(
            candidates,
            population=population,
            generations=-(-size // population),
            patience=patience,
            seed=seed,
        )
        self._remaining = iter(candidates)

    @property
    def keeps(self) -> int:
        """1: only the best is wanted, and it determines nothing."""
        return 1

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        return dict.fromkeys(itertools.islice(self._remaining, self.population), "listed")
