"""What a search answers: the winner that keeps the budget, the front, and the baselines."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from masktas.artifacts import write_json, write_text
from masktas.errors import BudgetError
from masktas.measure.target import Target
from masktas.measure.turns import measure_in_turns
from masktas.ratings.evaluator import Evaluator
from masktas.seeding import seed_for
from masktas.space import Architecture, Budget, BudgetedSpace, Costs, format_amount, params
from masktas.stages.common.stage import Context
from masktas.strategies import Rated, Score, Strategy, front, racing

SAME_SIZE = 0.02  # baselines have the winner's parameters to within this share
AT_A_TIME = 5  # networks that are measured in turns until one keeps the budget
MOST_MEASURED = 50
TURNS = "latency.turns.jsonl"  # of the networks that were measured
COLUMNS = ("rating", "error", "params", "macs", "size", "memory", "latency", "measured_latency")


@dataclass(frozen=True, slots=True)
class Answer:
    """An architecture with all that is known of it.

    Attributes:
        architecture: what was rated.
        score: how good it is.
        costs: by quantity; `latency` as predicted.
        measured: milliseconds of one inference, where that was measured, and the tenth fastest and
            slowest of the calls.
    """

    architecture: Architecture
    score: Score
    costs: dict[str, float]
    measured: tuple[float, float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        found: dict[str, Any] = {
            "rating": self.score.rating,
            "error": self.score.error,
            "images": self.score.images,
            **self.costs,
        }
        if self.measured is not None:
            found["measured_latency"] = self.measured[0]
            found["measured_latency_range"] = list(self.measured[1:])
        return found | {"architecture": self.architecture.to_dict()}


class LatencyCheck:
    """Measures networks for real, once each; what was measured outlives a kill.

    Args:
        context: the stage at work; its first process measures.
        target: what is measured on; None where that is not here: then nothing is measured.
        folder: of the stage, which keeps the turns.
    """

    def __init__(self, context: Context, target: Target | None, folder: Path) -> None:
        self._context, self._target, self._folder = context, target, folder
        self._times: dict[Architecture, tuple[float, float, float]] = {}

    @property
    def runs(self) -> bool:
        """Whether anything can be measured."""
        return self._target is not None

    def forget(self) -> None:
        """Drop what was measured: the same command measures anew."""
        self._times.clear()
        if self._context.ranks.is_first:
            (self._folder / TURNS).unlink(missing_ok=True)

    def measure(
        self, architectures: Sequence[Architecture]
    ) -> list[tuple[float, float, float] | None]:
        """Return milliseconds of one inference, in the middle and at both ends."""
        fresh = [one for one in dict.fromkeys(architectures) if one not in self._times]
        if self._target is not None and fresh:
            target = self._target

            def times() -> list[list[float]]:
                log = self._folder / TURNS
                seed = self._context.seed
                timings = measure_in_turns(
                    fresh, target, seed=seed, log=log, console=self._context.console
                )
                return [[one.median_ms, one.low_ms, one.high_ms] for one in timings]

            for one, (middle, low, high) in zip(
                fresh, self._context.ranks.first(times), strict=True
            ):
                self._times[one] = (middle, low, high)
        return [self._times.get(one) for one in architectures]


class Answers:
    """Turns what has been rated into what a person asked for.

    Args:
        context: the stage at work.
        evaluator: rates what is still missing.
        candidates: the architectures within the budget.
        clock: measures latency.
    """

    def __init__(
        self, context: Context, evaluator: Evaluator, candidates: BudgetedSpace, clock: LatencyCheck
    ) -> None:
        self._context, self._evaluator = context, evaluator
        self._candidates, self._clock = candidates, clock

    def best(self, strategy: Strategy, count: int) -> list[Answer]:
        """Return the `count` best of those rated that keep the budget also when measured.

        Says which do not.

        Raises:
            BudgetError: if none of the best does.
        """
        kept = self.kept(strategy, count, tell=self._tell_dropped)
        if not kept:
            tried = len(strategy.top(MOST_MEASURED))
            self._clock.forget()
            raise BudgetError(
                f"None of the best {tried} networks keeps {self._candidates.budget} when "
                "measured, though the latency model says so. If the machine was not quiet, give "
                "the same command again: only measuring is repeated. Else build the model again "
                "(`masktas latency build`), or allow more."
            )
        return kept

    def kept(
        self, strategy: Strategy, count: int, *, tell: Callable[[Answer], None] | None = None
    ) -> list[Answer]:
        """Return the `count` best that keep the budget also when measured, or as many as do.

        Args:
            strategy: has rated them.
            count: how many are wanted.
            tell: is called with each that does not.
        """
        if not self._times:
            return [self._answer(rated) for rated in strategy.top(count)]
        kept: list[Answer] = []
        ranked, at_a_time = strategy.top(max(MOST_MEASURED, count)), max(AT_A_TIME, count)
        for start in range(0, len(ranked), at_a_time):
            chunk = ranked[start : start + at_a_time]
            for answer in self._measured([self._answer(rated) for rated in chunk]):
                if self._keeps(answer):
                    kept.append(answer)
                elif tell is not None and len(kept) < count:
                    tell(answer)
            if len(kept) >= count:
                break
        return kept[:count]

    def front(self, strategy: Strategy, objectives: Sequence[str]) -> list[Answer]:
        """Return the networks that no other beats in rating and all `objectives` at once.

        Ascending by the first of them. Whoever is on it has been rated on all images, and measured
        where latency counts.
        """
        rated = list(strategy.history)
        while True:
            chosen = front(
                [
                    (one.rating, *(-self._costs.of(_of(one))[what] for what in objectives))
                    for one in rated
                ]
            )
            unfinished = [index for index in chosen if not rated[index].score.complete]
            if not unfinished:
                break
            numbers = self._evaluator.rate([_of(rated[index]) for index in unfinished])
            for index, row in zip(unfinished, numbers, strict=True):
                rated[index] = Rated(rated[index].candidate, racing.full(row))
        answers = [self._answer(rated[index]) for index in chosen]
        if self._times:
            answers = [one for one in self._measured(answers) if self._keeps(one)]
        answers.sort(key=lambda one: (one.costs[objectives[0]], -one.score.rating))
        return answers

    def rate(self, architectures: Sequence[Architecture]) -> list[Answer]:
        """Rate networks on all images."""
        scores = [racing.full(numbers) for numbers in self._evaluator.rate(architectures)]
        return [
            Answer(one, score, self._costs.of(one))
            for one, score in zip(architectures, scores, strict=True)
        ]

    def ahead(self, winner: Answer, other: Answer) -> dict[str, float | None]:
        """Return by how much the winner is rated higher, and the error of that, image by image."""
        first, second = self._evaluator.rate([winner.architecture, other.architecture])
        difference = racing.full(first - second)
        return {"difference": difference.rating, "error": difference.error}

    def measure(self, answers: Sequence[Answer]) -> list[Answer]:
        """Measure networks, where latency counts."""
        return self._measured(answers) if self._times else list(answers)

    @property
    def _times(self) -> bool:
        """Whether latency counts, and can be measured."""
        return self._costs.latency is not None and self._clock.runs

    @property
    def _costs(self) -> Costs:
        return self._candidates.costs

    def _answer(self, rated: Rated) -> Answer:
        return Answer(_of(rated), rated.score, self._costs.of(_of(rated)))

    def _measured(self, answers: Sequence[Answer]) -> list[Answer]:
        times = self._clock.measure([one.architecture for one in answers])
        return [replace(one, measured=time) for one, time in zip(answers, times, strict=True)]

    def _keeps(self, answer: Answer) -> bool:
        """Say whether a network meets the budget with its measured latency."""
        if answer.measured is None:
            return True
        return self._candidates.budget.allows(answer.costs | {"latency": answer.measured[0]})

    def _tell_dropped(self, answer: Answer) -> None:
        assert answer.measured is not None
        predicted, measured = answer.costs["latency"], answer.measured[0]
        self._context.console.say(
            f"Dropped: rating {answer.score.rating:.4f}, {format_amount('latency', predicted)} "
            f"predicted but {format_amount('latency', measured)} measured."
        )


def same_size(candidates: BudgetedSpace, winner: Architecture) -> BudgetedSpace:
    """Return the candidates of the winner's size, to within 2 %."""
    size, limits = params(winner), candidates.budget
    band = replace(
        limits,
        min_params=max(round(size * (1 - SAME_SIZE)), limits.min_params or 0),
        max_params=min(round(size * (1 + SAME_SIZE)), limits.max_params or 2 * size),
    )
    return BudgetedSpace(candidates.space, band, candidates.costs)


def drawn_alike(
    alike: BudgetedSpace, winner: Architecture, count: int, seed: int
) -> list[Architecture]:
    """Draw distinct random networks of the winner's size."""
    rng = random.Random(seed_for(seed, "baselines"))
    drawn: list[Architecture] = []
    for _ in range(20 * count):
        one = alike.sample(rng)
        if len(drawn) < count and one != winner and one not in drawn:
            drawn.append(one)
    return drawn


def write_front(folder: Path, answers: Sequence[Answer], objectives: Sequence[str]) -> None:
    """Write the front as JSON and CSV."""
    found = [one.to_dict() for one in answers]
    write_json(folder / "front.json", {"objectives": list(objectives), "front": found})
    write_text(folder / "front.csv", "".join(f"{line}\n" for line in _table(found)))


def _table(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    shown = [name for name in COLUMNS if any(name in one for one in found)]
    genes = ("embed_dim", "depth", "num_heads", "mlp_ratio")
    yield ",".join([*shown, *genes])
    for one in found:
        values = [one.get(name) for name in shown] + [one["architecture"][gene] for gene in genes]
        yield ",".join(_cell(value) for value in values)


def _cell(value: Any) -> str:
    """Write a value; the entries of a list are parted by spaces."""
    if value is None:
        return ""
    return " ".join(str(one) for one in value) if isinstance(value, list) else str(value)


def _of(rated: Rated) -> Architecture:
    return rated.candidate.architecture


def objectives_for(said: str | None, budget: Budget) -> tuple[str, ...]:
    """Return the costs that count beside the rating: what was said, else what the budget limits."""
    return tuple(said.split(",")) if said else budget.limited() or ("params",)
