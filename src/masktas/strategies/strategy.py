"""The ask/tell interface of every search strategy, and the values it exchanges (SPEC 4)."""

from __future__ import annotations

import heapq
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masktas.errors import ConfigError, MasktasError
from masktas.space import Architecture, BudgetedSpace
from masktas.space.shapes import draw_ramp, spread


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture to rate, and where it came from (random, uniform, crossover...)."""

    architecture: Architecture
    generation: int
    origin: str

    def with_score(self, score: Score, costs: Mapping[str, float]) -> Evaluated:
        """Return it as evaluated."""
        return Evaluated(self.architecture, score, costs, self.generation, self.origin)


@dataclass(frozen=True, slots=True)
class Score:
    """The rating of an architecture, and how certain it is.

    Attributes:
        rating: higher is better.
        error: its standard error over images, if known.
        images: number of images it is the mean of, if known.
        complete: whether these are all images. Racing drops a candidate before that once others
            are clearly better; its rating is then only an estimate.

    Raises:
        MasktasError: if the rating or its error is not a finite number.
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
class Evaluated:
    """An architecture with its score and its costs.

    Attributes:
        architecture: what was rated.
        score: how good it is.
        costs: by quantity; `latency` as predicted.
        generation, origin: of the candidate; None for an architecture that no strategy asked for.
        measured: milliseconds of one inference where they were measured: the median, and the tenth
            fastest and slowest of the calls.
    """

    architecture: Architecture
    score: Score
    costs: Mapping[str, float]
    generation: int | None = None
    origin: str | None = None
    measured: tuple[float, float, float] | None = None

    @property
    def rating(self) -> float:
        """Higher is better; an estimate unless `score.complete`."""
        return self.score.rating

    @property
    def error(self) -> float | None:
        """Standard error of the rating over images, if known."""
        return self.score.error

    @property
    def measured_latency(self) -> float | None:
        """Median milliseconds of one inference, where they were measured."""
        return self.measured and self.measured[0]

    def amount(self, what: str) -> float | None:
        """Return a cost by its key in the manifest; None where it is not known."""
        return self.measured_latency if what == "measured_latency" else self.costs.get(what)

    def to_dict(self) -> dict[str, Any]:
        """Return what manifests and `front.json` hold of it, as JSON types."""
        facts: dict[str, Any] = {
            "rating": self.score.rating,
            "error": self.score.error,
            "images": self.score.images,
            **self.costs,
        }
        if self.measured is not None:
            facts["measured_latency"] = self.measured[0]
            facts["measured_latency_range"] = list(self.measured[1:])
        return facts | {"architecture": self.architecture.to_dict()}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Evaluated:
        """Read what `to_dict` wrote."""
        costs = dict(content)
        architecture = Architecture.from_dict(costs.pop("architecture"))
        score = Score(costs.pop("rating"), costs.pop("error"), costs.pop("images"))
        median, span = (costs.pop(f"measured_latency{of}", None) for of in ("", "_range"))
        measured = None if median is None or span is None else (median, span[0], span[1])
        return cls(architecture, score, costs, measured=measured)


class Strategy(ABC):
    """A search by ask and tell: `ask` returns a generation, `tell` takes its scores in its order.

    What a generation draws depends only on the seed, its number and the scores before it, so a
    search that replays the scores of a journal continues as the search that wrote it.

    No architecture is asked for twice, and none outside the budget. The number of draws is bounded:
    when a small space is exhausted, generations get smaller and finally empty.

    Subclasses draw the next generation in `_draw`.

    Args:
        candidates: the architectures within the budget.
        population: `N_p`, the most candidates of a generation.
        generations: how many generations there are, the first one included.
        patience: stop after this many generations in a row without a better rating; None:
            never.
        seed: determines all draws.

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
        self.history: list[Evaluated] = []
        self._size = candidates.size()
        self._seen: set[Architecture] = set()
        self._asked: list[Candidate] | None = None
        self._generation = 0
        self._unimproved = 0  # generations since the best was found
        self._dry = False  # a generation came out empty

    @abstractmethod
    def _draw(self, rng: random.Random) -> dict[Architecture, str]:
        """Return the next generation, each with its origin: new ones within the budget only.

        Called once for every generation, when all before it have scores.
        """

    @property
    def keeps(self) -> int:
        """How many of the best candidates determine the next generation, those asked for included.

        Racing must rate these on all images; if it is `total`, racing must drop none.
        """
        return self.total

    @property
    def total(self) -> int:
        """The largest number of candidates that the search can ask for."""
        return min(self.population * self.generations, self._size)

    @property
    def done(self) -> bool:
        """Whether the search has ended: budget of ratings, space or patience is exhausted."""
        return (
            self._dry
            or len(self.history) >= self.total
            or self._generation >= self._most_generations
            or (self.patience is not None and self._unimproved >= self.patience)
        )

    @property
    def best(self) -> Evaluated:
        """The best candidate with a complete score; among equals the first.

        Raises:
            ValueError: if there is none yet.
        """
        return max(self._complete(), key=_rating)

    def top(self, k: int) -> list[Evaluated]:
        """Return the `k` best with complete scores, best first; among equals the first asked."""
        return heapq.nlargest(k, self._complete(), key=_rating)

    def ask(self) -> list[Candidate]:
        """Return the candidates of this generation; the same ones until `tell` is called."""
        if self._asked is None:
            self._asked = [] if self.done else self._next_generation()
        return self._asked

    def tell(self, scores: Sequence[Score]) -> None:
        """Take the scores of what `ask` returned, in its order.

        Raises:
            ValueError: if their number differs.
        """
        asked = self.ask()
        costs = self.candidates.costs
        evaluated = [
            candidate.with_score(score, costs.of(candidate.architecture))
            for candidate, score in zip(asked, scores, strict=True)
        ]
        before = max(map(_rating, self._complete()), default=-math.inf)
        improved = any(one.score.complete and one.rating > before for one in evaluated)
        self.history += evaluated
        self._seen.update(candidate.architecture for candidate in asked)
        self._generation += 1
        self._unimproved = 0 if improved else self._unimproved + 1
        self._dry = not asked
        self._asked = None

    @property
    def _most_generations(self) -> int:
        return self.generations

    def _complete(self) -> list[Evaluated]:
        return [one for one in self.history if one.score.complete]

    def _next_generation(self) -> list[Candidate]:
        # Seeded anew, so that the draws do not depend on how the generation was reached.
        rng = random.Random(f"{self.seed}/{self._generation}")
        drawn = list(self._draw(rng).items())[: self.total - len(self.history)]
        return [Candidate(one, self._generation, origin) for one, origin in drawn]

    def _is_new(self, one: Architecture) -> bool:
        """Return whether it may be asked for: new, and within the budget."""
        return one not in self._seen and self.candidates.contains(one)

    def _collect(
        self,
        chosen: dict[Architecture, str],
        origin: str,
        until: int,
        draw: Callable[[], Architecture | None],
    ) -> None:
        """Add new architectures within the budget until there are `until`, in bounded tries."""
        for _ in range(20 * self.population):
            if len(chosen) >= until:
                return
            one = draw()
            if one is not None and one not in chosen and self._is_new(one):
                chosen[one] = origin

    def _collect_simple(self, chosen: dict[Architecture, str], rng: random.Random) -> None:
        """Begin a first generation with simple shapes (SPEC 6.3).

        Uniform networks up to half of the population, spread over patch size, width and depth; and
        ramps, a quarter of the population.
        """
        uniforms = spread(self.candidates.uniforms(), self.population // 2)
        chosen |= dict.fromkeys(uniforms, "uniform")
        until = len(chosen) + self.population // 4
        self._collect(chosen, "ramp", until, lambda: draw_ramp(self.candidates.space, rng))

    def _collect_random(self, chosen: dict[Architecture, str], rng: random.Random) -> None:
        """Fill a generation with random architectures."""
        self._collect(chosen, "random", self.population, lambda: self.candidates.sample(rng))


def require_counts(**counts: int | None) -> None:
    """Raise ConfigError unless each count that is not None is at least 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} is {count}: give a whole number above 0.")


def _rating(evaluated: Evaluated) -> float:
    return evaluated.rating
