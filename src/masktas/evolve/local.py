"""Local search: one step at a time, to whatever is better."""

from __future__ import annotations

import random

from masktas.evolve.strategy import Rated, Strategy
from masktas.space import Architecture, BudgetedSpace
from masktas.space.vary import neighbours


class LocalSearch(Strategy):
    """Hill climbing with restarts (after White et al. 2021, "Exploring the loss landscape in NAS").

    The climb starts at the best of a random generation. A generation holds the point's neighbours
    that have not been rated, in random order: those with one gene changed, a block more or less,
    the next width. The point moves to the best of them if that is better. When no neighbour is
    left, a random generation begins the next climb.

    Neighbourhoods are of any size, so `population` and `generations` limit the number of ratings,
    not that of generations.

    Args: see `Strategy`.
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

        Where a random generation is rated, its best one starts a climb, however it compares with
        those of earlier climbs: then all count.
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
        self._collect_random(chosen, rng)
        return chosen

    def _move(self) -> None:
        """Go to the best of the last generation, if it is better than where the climb is."""
        last = self._generation - 1
        told = [one for one in self._complete() if one.candidate.generation == last]
        best = max(told, key=lambda rated: rated.rating, default=None)
        if best and (self._point is None or best.rating > self._point.rating):
            self._point = best
