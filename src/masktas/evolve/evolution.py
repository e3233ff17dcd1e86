"""Evolutionary search, by ask and tell: it knows neither models nor images (SPEC 4)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from masktas.space import Architecture, BudgetedSpace, crossover, mutate


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture to rate, and where it came from (random, crossover or mutation)."""

    architecture: Architecture
    generation: int
    origin: str


@dataclass(frozen=True, slots=True)
class Rated:
    """A candidate with its rating; higher is better."""

    candidate: Candidate
    rating: float


class Evolution:
    """The paper's search: keep the `parents` best seen, cross half, mutate half, fill at random.

    `ask` returns a generation, `tell` takes its ratings in the same order. The draws of a
    generation depend on the seed, its number and the ratings before it alone, so a search that
    is told the ratings of a journal goes on as the one that wrote it.

    No architecture is asked for twice and none outside the budget. Every attempt is bounded:
    where a small space runs dry, generations get smaller and at last empty.

    Args:
        candidates: the architectures within the budget.
        population: `N_p`, candidates of a generation.
        generations: how many generations there are, the random first one included.
        parents: `k`, how many of the best are crossed and mutated.
        depth_probability, block_probability: `P_d`, `P_m`; see `masktas.space.mutate`.
        seed: names the random numbers.
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
        seed: int = 0,
    ) -> None:
        self.candidates = candidates
        self.population = population
        self.generations = generations
        self.parents = parents
        self.depth_probability = depth_probability
        self.block_probability = block_probability
        self.seed = seed
        self.history: list[Rated] = []
        self._generation = 0
        self._asked: list[Candidate] | None = None
        self._seen: set[Architecture] = set()

    @property
    def done(self) -> bool:
        """Whether every generation has been rated, or every architecture has."""
        return self._generation >= self.generations or len(self._seen) >= self.candidates.size()

    @property
    def best(self) -> Rated:
        """The best rated so far; among equals the first."""
        return max(self.history, key=lambda rated: rated.rating)

    def ask(self) -> list[Candidate]:
        """Return the candidates of this generation; the same ones until `tell` is called."""
        if self._asked is None:
            self._asked = self._next_generation()
        return self._asked

    def tell(self, ratings: list[float]) -> None:
        """Take the ratings of what `ask` returned, in its order."""
        asked = self.ask()
        self.history += [Rated(c, rating) for c, rating in zip(asked, ratings, strict=True)]
        self._seen.update(candidate.architecture for candidate in asked)
        self._generation = self._generation + 1 if asked else self.generations
        self._asked = None

    def _next_generation(self) -> list[Candidate]:
        # Keyed, not continued: what a generation draws does not hang on how it was reached.
        rng = random.Random(f"{self.seed}/{self._generation}")
        chosen: dict[Architecture, str] = {}
        best = sorted(self.history, key=lambda rated: -rated.rating)[: self.parents]
        elders = [rated.candidate.architecture for rated in best]
        if elders:
            half = self.population // 2
            self._collect(chosen, "crossover", half, lambda: self._cross(elders, rng))
            self._collect(chosen, "mutation", len(chosen) + half, lambda: self._mutate(elders, rng))
        self._collect(chosen, "random", self.population, lambda: self.candidates.sample(rng))
        return [Candidate(one, self._generation, origin) for one, origin in chosen.items()]

    def _collect(
        self,
        chosen: dict[Architecture, str],
        origin: str,
        until: int,
        draw: Callable[[], Architecture | None],
    ) -> None:
        """Draw new architectures within the budget until there are `until`, with bounded tries."""
        for _ in range(20 * self.population):
            if len(chosen) >= until:
                return
            one = draw()
            if one is None or one in chosen or one in self._seen:
                continue
            if self.candidates.contains(one):
                chosen[one] = origin

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
