"""Exhaustive search, where the space is small: the only one that is sure of its winner."""

from __future__ import annotations

import itertools
import random

from masktas.errors import BudgetError
from masktas.space import Architecture, BudgetedSpace
from masktas.strategies.strategy import Strategy, require_counts


class Exhaustive(Strategy):
    """Every architecture within the budget, in a fixed order, a generation at a time.

    Args:
        candidates, population, patience, seed: see `Strategy`; nothing is drawn at random.
        limit: how many architectures are not too many.

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
        self._left = iter(candidates)

    @property
    def keeps(self) -> int:
        """The best one alone: it is what was searched for."""
        return 1

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        return dict.fromkeys(itertools.islice(self._left, self.population), "listed")
