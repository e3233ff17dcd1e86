"""What every search is: it is asked for candidates, and told what they are worth (SPEC 4)."""

from __future__ import annotations

import heapq
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from masktas.errors import ConfigError, MasktasError
from masktas.space import Architecture, BudgetedSpace


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture to rate, and where it came from (random, crossover, mutation...)."""

    architecture: Architecture
    generation: int
    origin: str


@dataclass(frozen=True, slots=True)
class Score:
    """What rating an architecture has said.

    Attributes:
        rating: higher is better.
        error: its standard error over images, where it is known.
        images: how many images it is the mean of, where it is known.
        complete: whether these are all images. Racing drops a loser before it has seen all: then
            the rating is an estimate, good for nothing but telling that others are better.

    Raises:
        MasktasError: if the rating or its error is not a finite number: nothing can be put in order
            by it.
    """

    rating: float
    error: float | None = None
    images: int | None = None
    complete: bool = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.rating) or not 0 <= (self.error or 0) < math.inf:
            raise MasktasError(
                f"A rating is {self.rating} (standard error: {self.error}), which is not finite: "
                "choose a higher --temperature or another --rating, or train the supernet again if "
                "its losses are not finite either."
            )


@dataclass(frozen=True, slots=True)
class Rated:
    """A candidate with its score."""

    candidate: Candidate
    score: Score

    @property
    def rating(self) -> float:
        """Higher is better; an estimate unless `score.complete`."""
        return self.score.rating


class Strategy(ABC):
    """A search by ask and tell: `ask` returns a generation, `tell` takes its scores in its order.

    The draws of a generation depend on the seed, its number and the scores before it alone, so a
    search that is told the scores of a journal goes on as the one that wrote it.

    No architecture is asked for twice and none outside the budget. Every attempt is bounded: where
    a small space runs dry, generations get smaller and at last empty.

    A strategy says in `_draw` what its next generation is; all else is here.

    Args:
        candidates: the architectures within the budget.
        population: `N_p`, the most candidates of a generation.
        generations: how many generations there are, the first one included.
        patience: stop when so many generations in a row have not brought a better rating; None:
            never.
        seed: names the random numbers.

    Raises:
        ConfigError: if one of the counts is below 1.
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
        require_counts(population=population, generations=generations, patience=patience)
        self.candidates = candidates
        self.population = population
        self.generations = generations
        self.patience = patience
        self.seed = seed
        self.history: list[Rated] = []
        self._size = candidates.size()
        self._seen: set[Architecture] = set()
        self._asked: list[Candidate] | None = None
        self._generation = 0
        self._unimproved = 0  # generations since the best was found
        self._dry = False  # a generation came out empty

    @abstractmethod
    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        """Return the next generation, each with its origin: new ones within the budget only.

        Called once for every generation, when all before it have been told.
        """

    @property
    def keeps(self) -> int:
        """How many of the best ratings so far, asked ones included, the next move hangs on.

        Racing must rate these on all images; where it says `total`, it must drop none.
        """
        return self.total

    @property
    def total(self) -> int:
        """The most candidates that will ever be asked for."""
        return min(self.population * self.generations, self._size)

    @property
    def done(self) -> bool:
        """Whether all has been asked for, nothing is left, or patience is at its end."""
        return (
            self._dry
            or len(self.history) >= self.total
            or self._generation >= self._most_generations
            or (self.patience is not None and self._unimproved >= self.patience)
        )

    @property
    def best(self) -> Rated:
        """The best of those rated completely; among equals the first.

        Raises:
            ValueError: if there is none yet.
        """
        return max(self._complete(), key=_rating)

    def top(self, k: int) -> list[Rated]:
        """Return the `k` best of those rated completely, best first; among equals the first."""
        return heapq.nlargest(k, self._complete(), key=_rating)

    def ask(self) -> list[Candidate]:
        """Return the candidates of this generation; the same ones until `tell` is called."""
        if self._asked is None:
            self._asked = [] if self.done else self._next_generation()
        return self._asked

    def tell(self, scores: Sequence[Score]) -> None:
        """Take the scores of what `ask` returned, in its order.

        Raises:
            ValueError: if they are not as many.
        """
        asked = self.ask()
        rated = [Rated(candidate, score) for candidate, score in zip(asked, scores, strict=True)]
        before = max(map(_rating, self._complete()), default=-math.inf)
        improved = any(one.score.complete and one.rating > before for one in rated)
        self.history += rated
        self._seen.update(candidate.architecture for candidate in asked)
        self._generation += 1
        self._unimproved = 0 if improved else self._unimproved + 1
        self._dry = not asked
        self._asked = None

    @property
    def _most_generations(self) -> int:
        return self.generations

    def _complete(self) -> list[Rated]:
        return [rated for rated in self.history if rated.score.complete]

    def _next_generation(self) -> list[Candidate]:
        # Keyed, not continued: what a generation draws does not hang on how it was reached.
        rng = random.Random(f"{self.seed}/{self._generation}")
        drawn = list(self._draw(rng).items())[: self.total - len(self.history)]
        return [Candidate(one, self._generation, origin) for one, origin in drawn]

    def _is_new(self, one: Architecture) -> bool:
        """Say whether it has not been asked for yet, and may be."""
        return one not in self._seen and self.candidates.contains(one)

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
            if one is not None and one not in chosen and self._is_new(one):
                chosen[one] = origin

    def _collect_random(self, chosen: dict[Architecture, str], rng: random.Random) -> None:
        """Fill a generation at random."""
        self._collect(chosen, "random", self.population, lambda: self.candidates.sample(rng))


def require_counts(**counts: int | None) -> None:
    """Raise ConfigError unless each that is given is at least 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} is {count}: give a whole number above 0.")


def _rating(rated: Rated) -> float:
    return rated.rating
