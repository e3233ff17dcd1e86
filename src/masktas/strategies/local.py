"""Local search: hill climbing over neighbouring architectures."""

from __future__ import annotations

import random

from masktas.space import Architecture, BudgetedSpace
from masktas.space.vary import neighbours
from masktas.strategies.strategy import Evaluated, Strategy


class LocalSearch(Strategy):
    """Hill climbing with restarts (after White et al. 2021, "Exploring the loss landscape in NAS").

    The first generation is random, and the climb starts at its best candidate. A later one holds
    neighbours of the current point that have not been rated, at most `population`: one gene
    changed, one block more or fewer, the next width (`masktas.space.vary.neighbours`). The point
    moves to the best of them if it is better. When all neighbours are rated, a single random
    architecture is rated and the next climb starts there; on a rough landscape this found better
    architectures than starting at the best of a random generation (docs/log.md).

    Neighbourhoods differ in size, so there may be more than `generations` generations, but never
    more than `population * generations` ratings.

    Args:
        candidates, population, generations, patience, seed: see `Strategy`.
    """

    def __init__(
        self,
        candidates: BudgetedSpace,
        *,
        population: int = 50,
        generations: int = 20,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            candidates,
            population=population,
            generations=generations,
            patience=patience,
            seed=seed,
        )
        self._point: Evaluated | None = None  # of the current climb

    @property
    def keeps(self) -> int:
        """As many as are at least as good as the current point, so a better neighbour is kept.

        The start of a climb must be rated completely, however it compares with earlier climbs.
        """
        point = self._point
        if point is None:
            return self.total if self.history else 1
        return sum(one.score.complete and one.rating >= point.rating for one in self.history)

    @property
    def _most_generations(self) -> int:
        return self.total

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        self._move()
        if self._point is not None:
            around = neighbours(self._point.architecture, self.candidates.space)
            new = [one for one in around if self._is_new(one)]
            if new:
                rng.shuffle(new)
                return dict.fromkeys(new[: self.population], "neighbour")
        self._point = None
        chosen: dict[Architecture, str] = {}
        count = 1 if self.history else self.population
        self._collect(chosen, "random", count, lambda: self.candidates.sample(rng))
        return chosen

    def _move(self) -> None:
        """Move the point to the best of the last generation if that is better."""
        last = self._generation - 1
        newest = [one for one in self._complete() if one.generation == last]
        best = max(newest, key=lambda one: one.rating, default=None)
        if best and (self._point is None or best.rating > self._point.rating):
            self._point = best
