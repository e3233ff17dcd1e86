"""The results of a search: winners that meet the budget when measured, front and baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from masktas.errors import BudgetError
from masktas.files import write_json, write_text
from masktas.measure.target import Target
from masktas.measure.turns import measure_in_turns
from masktas.ratings.evaluator import Evaluator
from masktas.space import Architecture, Budget, BudgetedSpace, format_amount
from masktas.stages.common.manifest import RatingDifference
from masktas.stages.common.stage import Context
from masktas.strategies import Evaluated, Strategy, front, racing

CHUNK_SIZE = 5  # networks measured in turns at once, until enough meet the budget
MAX_MEASURED = 50
TURNS = "latency.turns.jsonl"  # the measurements
COLUMNS = ("rating", "error", "params", "macs", "size", "memory", "latency", "measured_latency")


class LatencyCheck:
    """Measures the latency of networks, each once; measurements are kept for resuming.

    Args:
        context: of the search stage; rank 0 measures.
        target: the device to measure on; None if it is not available: then nothing is measured.
        folder: of the stage, which holds the log of measurements.
    """

    def __init__(self, context: Context, target: Target | None, folder: Path) -> None:
        self._context, self._target, self._folder = context, target, folder
        self._times: dict[Architecture, tuple[float, float, float]] = {}

    @property
    def can_measure(self) -> bool:
        """Whether anything can be measured."""
        return self._target is not None

    def forget(self) -> None:
        """Drop all measurements, so that the same command measures again."""
        self._times.clear()
        if self._context.ranks.is_first:
            (self._folder / TURNS).unlink(missing_ok=True)

    def measure(
        self, architectures: Sequence[Architecture]
    ) -> list[tuple[float, float, float] | None]:
        """Return the median, low and high milliseconds of one inference; None if not measured."""
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


class ResultBuilder:
    """Picks winners, front and baselines from what has been rated.

    Args:
        context: of the search stage.
        evaluator: rates the baselines.
        candidates: the architectures within the budget.
        check: measures latency.
    """

    def __init__(
        self,
        context: Context,
        evaluator: Evaluator,
        candidates: BudgetedSpace,
        check: LatencyCheck,
    ) -> None:
        self._context, self._evaluator = context, evaluator
        self._candidates, self._check = candidates, check

    def best(self, strategy: Strategy, count: int) -> list[Evaluated]:
        """Return the `count` best candidates that meet the budget when measured; report the others.

        Raises:
            BudgetError: if none of the best does.
        """
        kept = self.kept(strategy, count, report=self._report_dropped)
        if not kept:
            num_measured = len(strategy.top(MAX_MEASURED))
            self._check.forget()
            raise BudgetError(
                f"None of the best {num_measured} networks meets {self._candidates.budget} when "
                "measured, although the latency model predicts that they do: repeat the command if "
                "the machine was busy (only measuring is repeated), build the model again "
                "(`masktas latency build`), or allow more."
            )
        return kept

    def kept(
        self,
        strategy: Strategy,
        count: int,
        *,
        report: Callable[[Evaluated], None] | None = None,
    ) -> list[Evaluated]:
        """Return up to `count` of the best candidates that meet the budget when measured.

        Args:
            strategy: has rated them.
            count: how many are wanted.
            report: called with each candidate that does not.
        """
        if not self._measures:
            return strategy.top(count)
        kept: list[Evaluated] = []
        ranked, size = strategy.top(max(MAX_MEASURED, count)), max(CHUNK_SIZE, count)
        for start in range(0, len(ranked), size):
            for evaluated in self.measure(ranked[start : start + size]):
                if self._meets_budget(evaluated):
                    kept.append(evaluated)
                elif report is not None and len(kept) < count:
                    report(evaluated)
            if len(kept) >= count:
                break
        return kept[:count]

    def front(self, strategy: Strategy, objectives: Sequence[str]) -> list[Evaluated]:
        """Return the Pareto front of rating and all `objectives`, ascending by the first of them.

        All of it is rated on all images and, if latency counts, measured.
        """
        rated = list(strategy.history)
        while True:
            points = [
                (one.rating, *(-one.costs[quantity] for quantity in objectives)) for one in rated
            ]
            chosen = front(points)
            unfinished = [index for index in chosen if not rated[index].score.complete]
            if not unfinished:
                break
            numbers = self._evaluator.rate([rated[index].architecture for index in unfinished])
            for index, row in zip(unfinished, numbers, strict=True):
                rated[index] = replace(rated[index], score=racing.full(row))
        found = [one for one in self.measure([rated[i] for i in chosen]) if self._meets_budget(one)]
        found.sort(key=lambda one: (one.costs[objectives[0]], -one.rating))
        return found

    def rate(self, architectures: Sequence[Architecture]) -> list[Evaluated]:
        """Rate architectures on all images, and measure them if latency counts."""
        numbers = self._evaluator.rate(architectures)
        evaluated = [
            Evaluated(architecture, racing.full(row), self._candidates.costs.of(architecture))
            for architecture, row in zip(architectures, numbers, strict=True)
        ]
        return self.measure(evaluated)

    def ahead(self, winner: Evaluated, others: Sequence[Evaluated]) -> RatingDifference:
        """Return how much higher the winner is rated than others on average, image by image.

        Returns:
            The mean difference over images, and its standard error.
        """
        rows = self._evaluator.rate([one.architecture for one in (winner, *others)])
        difference = racing.full(rows[0] - rows[1:].mean(0))
        return RatingDifference(difference.rating, difference.error)

    def measure(self, evaluated: Sequence[Evaluated]) -> list[Evaluated]:
        """Measure the latency of networks if it counts."""
        if not self._measures:
            return list(evaluated)
        times = self._check.measure([one.architecture for one in evaluated])
        return [replace(one, measured=time) for one, time in zip(evaluated, times, strict=True)]

    @property
    def _measures(self) -> bool:
        """Whether latency counts and can be measured."""
        return self._candidates.costs.latency is not None and self._check.can_measure

    def _meets_budget(self, evaluated: Evaluated) -> bool:
        """Return whether a network meets the budget with its measured latency, if it has one."""
        if evaluated.measured is None:
            return True
        return self._candidates.budget.allows({**evaluated.costs, "latency": evaluated.measured[0]})

    def _report_dropped(self, evaluated: Evaluated) -> None:
        assert evaluated.measured is not None
        predicted, measured = evaluated.costs["latency"], evaluated.measured[0]
        self._context.console.say(
            f"Dropped: rating {evaluated.rating:.4f}, {format_amount('latency', predicted)} "
            f"predicted but {format_amount('latency', measured)} measured."
        )


def write_front(folder: Path, evaluated: Sequence[Evaluated], objectives: Sequence[str]) -> None:
    """Write the front as JSON and CSV."""
    found = [one.to_dict() for one in evaluated]
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
    """Format a value; entries of a list are separated by spaces."""
    if value is None:
        return ""
    return " ".join(str(one) for one in value) if isinstance(value, list) else str(value)


def objectives_for(given: str | None, budget: Budget) -> tuple[str, ...]:
    """Return the costs to minimise beside the rating: the given ones, or those in the budget."""
    return tuple(given.split(",")) if given else budget.limited() or ("params",)
