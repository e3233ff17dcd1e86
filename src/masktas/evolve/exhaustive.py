"""Exhaustive search, where the space is small: the only one that is sure of its winner."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from masktas.errors import BudgetError
from masktas.evolve.strategy import Strategy, require_counts
from masktas.space import Architecture, BudgetedSpace


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
        self._left = _every(candidates)

    @property
    def keeps(self) -> int:
        """The best one alone: it is what was searched for."""
        return 1

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        return dict.fromkeys(itertools.islice(self._left, self.population), "listed")


def _every(candidates: BudgetedSpace) -> Iterator[Architecture]:
    """Yield every architecture within the budget, by going through all of the space."""
    space = candidates.space
    for width, depth in itertools.product(space.embed_dim, space.depth):
        for heads in itertools.product(space.num_heads, repeat=depth):
            for ratios in itertools.product(space.mlp_ratio, repeat=depth):
                one = space.build(width, heads, ratios)
                if candidates.contains(one):
                    yield one
