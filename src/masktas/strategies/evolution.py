"""The paper's evolutionary search (SPEC 4), with simple and whole-network shapes (SPEC 6.3)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from masktas.space import Architecture, BudgetedSpace, crossover, mutate
from masktas.space.shapes import shape_moves
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
        simple_shapes: begin with uniform networks and ramps, not with random networks only.
        shape_probability: of a mutation to move the shape of the whole network (`shape_moves`)
            instead of redrawing genes. 0 in the paper.
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
        simple_shapes: bool = False,
        shape_probability: float = 0.0,
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
        self.simple_shapes = simple_shapes
        self.shape_probability = shape_probability

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
            until = len(chosen) + half
            self._collect_moved(chosen, parents, rng)
            self._collect(chosen, "mutation", until, lambda: self._mutate(parents, rng))
        elif self.simple_shapes:
            self._collect_simple(chosen, rng)
        self._collect_random(chosen, rng)
        return chosen

    def _collect_moved(
        self, chosen: dict[Architecture, str], parents: list[Architecture], rng: random.Random
    ) -> None:
        """Add the mutations that move the shape of the whole network."""
        if not self.shape_probability:
            return
        wanted = sum(rng.random() < self.shape_probability for _ in range(self.population // 2))
        moves = self._moves(parents, rng)
        self._collect(chosen, "shape", len(chosen) + wanted, lambda: next(moves, None))

    def _moves(self, parents: list[Architecture], rng: random.Random) -> Iterator[Architecture]:
        """Yield moves of the parents' shapes in random order, each once."""
        moves = [shape_moves(one, self.candidates.space, rng) for one in parents]
        while moves:
            of_one = rng.choice(moves)
            moved = next(of_one, None)
            if moved is None:
                moves.remove(of_one)
            else:
                yield moved

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
