"""Local search: one step at a time, to whatever is better."""

from __future__ import annotations

import random

from masktas.space import Architecture, BudgetedSpace
from masktas.space.vary import neighbours
from masktas.strategies.strategy import Rated, Strategy


class LocalSearch(Strategy):
    """Hill climbing with restarts (after White et al. 2021, "Exploring the loss landscape in NAS").

    The first generation is random, and the climb starts at its best. A later one holds those
    neighbours of the point that have not been rated, `population` of them at most: one gene
    changed, a block more or less, the next width (`masktas.space.vary.neighbours`). The point moves
    to the best of them if that is better. When no neighbour is left, a single random architecture
    is rated, and the next climb starts there: that found better ones than the best of a whole
    random generation did, on a rough landscape (docs/log.md).

    Neighbourhoods are of any size, so there may be more generations than `generations`, but never
    more ratings than `population` times that.

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
        self._point: Rated | None = None  # how far the present climb has got

    @property
    def keeps(self) -> int:
        """Those that are as good as the present point: a better neighbour will be among so many.

        Where a climb starts is rated completely, however it compares with earlier climbs.
        """
        point = self._point
        if point is None:
            return self.total if self.history else 1
        return sum(rated.score.complete and rated.rating >= point.rating for rated in self.history)

    @property
    def _most_generations(self) -> int:
        return self.total

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        self._move()
        if self._point is not None:
            around = neighbours(self._point.candidate.architecture, self.candidates.space)
            new = [one for one in around if self._is_new(one)]
            if new:
                rng.shuffle(new)
                return dict.fromkeys(new[: self.population], "neighbour")
        self._point = None
        chosen: dict[Architecture, str] = {}
        many = 1 if self.history else self.population
        self._collect(chosen, "random", many, lambda: self.candidates.sample(rng))
        return chosen

    def _move(self) -> None:
        """Go to the best of the last generation, if it is better than where the climb is."""
        last = self._generation - 1
        told = [one for one in self._complete() if one.candidate.generation == last]
        best = max(told, key=lambda rated: rated.rating, default=None)
        if best and (self._point is None or best.rating > self._point.rating):
            self._point = best
