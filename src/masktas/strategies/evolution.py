"""Evolutionary search, by ask and tell: it knows neither models nor images (SPEC 4)."""

from __future__ import annotations

import random

from masktas.space import Architecture, BudgetedSpace, crossover, mutate
from masktas.space.vary import distance
from masktas.strategies.strategy import Strategy, require_counts


class Evolution(Strategy):
    """The paper's search: keep the `parents` best seen, cross half, mutate half, fill at random.

    Args:
        candidates, population, generations, patience, seed: see `Strategy`.
        parents: `k`, how many of the best are crossed and mutated.
        depth_probability, block_probability: `P_d`, `P_m`; see `masktas.space.mutate`.
        diversity: the least number of genes by which parents differ from each other: each is the
            best that does, among the `population` best. 0 is the paper's way: the best, however
            alike. In time these become so much alike that their children have all been rated, and
            generations are filled at random instead; 3 prevents most of that (docs/log.md).
    """

    def __init__(
        self,
        candidates: BudgetedSpace,
        *,
        population: int = 50,
        generations: int = 20,
        parents: int = 10,
        depth_probability: float = 0.4,
        block_probability: float = 0.2,
        diversity: int = 0,
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
        require_counts(parents=parents)
        self.parents = parents
        self.depth_probability = depth_probability
        self.block_probability = block_probability
        self.diversity = diversity

    @property
    def keeps(self) -> int:
        """The parents of the next generation, or those they are chosen from."""
        return max(self.parents, self.population) if self.diversity else self.parents

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        chosen: dict[Architecture, str] = {}
        elders = self._elders()
        if elders:
            half = self.population // 2
            self._collect(chosen, "crossover", half, lambda: self._cross(elders, rng))
            self._collect(chosen, "mutation", len(chosen) + half, lambda: self._mutate(elders, rng))
        self._collect_random(chosen, rng)
        return chosen

    def _elders(self) -> list[Architecture]:
        """Return the parents, best first: each differs from those before by enough genes."""
        elders: list[Architecture] = []
        for rated in self.top(self.keeps):
            one = rated.candidate.architecture
            if all(distance(one, other) >= self.diversity for other in elders):
                elders.append(one)
        return elders[: self.parents]

    def _cross(self, elders: list[Architecture], rng: random.Random) -> Architecture | None:
        first = rng.choice(elders)
        mates = [one for one in elders if one.depth == first.depth and one != first]
        return crossover(first, rng.choice(mates), self.candidates.space, rng) if mates else None

    def _mutate(self, elders: list[Architecture], rng: random.Random) -> Architecture:
        return mutate(
            rng.choice(elders),
            self.candidates.space,
            rng,
            depth_probability=self.depth_probability,
            block_probability=self.block_probability,
        )
