"""The paper's evolutionary search (SPEC 4)."""

from __future__ import annotations

import random

from masktas.space import Architecture, BudgetedSpace, crossover, mutate
from masktas.space.vary import distance
from masktas.strategies.strategy import Strategy, require_counts


class Evolution(Strategy):
    """Evolution: cross and mutate the best so far, half of a generation each; fill it at random.

    Args:
        candidates, population, generations, patience, seed: see `Strategy`.
        parents: `k`, how many of the best candidates are crossed and mutated.
        depth_probability, block_probability: `P_d`, `P_m`; see `masktas.space.mutate`.
        diversity: the least number of genes in which parents differ from one another; they are
            chosen greedily among the `population` best. 0, as in the paper, takes the best however
            similar: in time their children have all been rated, and generations are filled at
            random instead. 3 prevents most of that (docs/log.md).
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
        """The parents of the next generation, or the candidates they are chosen from."""
        return max(self.parents, self.population) if self.diversity else self.parents

    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        chosen: dict[Architecture, str] = {}
        parents = self._parents()
        if parents:
            half = self.population // 2
            self._collect(chosen, "crossover", half, lambda: self._cross(parents, rng))
            self._collect(
                chosen, "mutation", len(chosen) + half, lambda: self._mutate(parents, rng)
            )
        self._collect_random(chosen, rng)
        return chosen

    def _parents(self) -> list[Architecture]:
        """Return the parents, best first: each differs from all before it in enough genes."""
        parents: list[Architecture] = []
        for evaluated in self.top(self.keeps):
            one = evaluated.architecture
            if all(distance(one, other) >= self.diversity for other in parents):
                parents.append(one)
        return parents[: self.parents]

    def _cross(self, parents: list[Architecture], rng: random.Random) -> Architecture | None:
        first = rng.choice(parents)
        mates = [one for one in parents if one.depth == first.depth and one != first]
        return crossover(first, rng.choice(mates), self.candidates.space, rng) if mates else None

    def _mutate(self, parents: list[Architecture], rng: random.Random) -> Architecture:
        return mutate(
            rng.choice(parents),
            self.candidates.space,
            rng,
            depth_probability=self.depth_probability,
            block_probability=self.block_probability,
        )
