"""Let a strategy ask and be told, generation after generation, from where its journal ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from masktas.artifacts import SETTINGS, read_json, read_lines
from masktas.config import StrategySettings
from masktas.errors import MasktasError
from masktas.ratings.evaluator import MAX_REMEMBERED, Evaluator
from masktas.space import Architecture, BudgetedSpace, format_quantity, params
from masktas.stages.common.stage import Context
from masktas.strategies import (
    NSGA2,
    Candidate,
    Evolution,
    Exhaustive,
    LocalSearch,
    RandomSearch,
    Rated,
    Score,
    Strategy,
    journal,
    racing,
)

HISTORY = "history.jsonl"
CHUNK_SECONDS = 10.0  # of rating between two looks at whether to stop


def strategy_for(
    settings: StrategySettings, candidates: BudgetedSpace, objectives: Sequence[str], seed: int
) -> Strategy:
    """Return the search that the user chose."""
    bounds: dict[str, Any] = {
        "population": settings.population,
        "generations": settings.generations,
        "patience": settings.patience or None,
        "seed": seed,
    }
    if settings.strategy == "random":
        return RandomSearch(candidates, **bounds)
    if settings.strategy == "local":
        return LocalSearch(candidates, **bounds)
    if settings.strategy == "nsga2":
        costs = candidates.costs.of
        return NSGA2(candidates, objectives=objectives, costs=costs, **bounds)
    if settings.strategy == "exhaustive":
        return Exhaustive(candidates, population=settings.population)
    return Evolution(
        candidates,
        parents=settings.parents,
        depth_probability=settings.depth_probability,
        block_probability=settings.block_probability,
        diversity=settings.diversity,
        **bounds,
    )


class SearchRunner:
    """Rates what a strategy asks for, and writes it down.

    Args:
        context: the stage at work.
        evaluator: rates.
        settings: whether candidates race, and how many of the best are wanted.
        known: scores of before that are still valid, and the search each is from; by `name_of`.
    """

    def __init__(
        self,
        context: Context,
        evaluator: Evaluator,
        settings: StrategySettings,
        known: dict[str, tuple[Score, str]],
    ) -> None:
        self._context, self._evaluator, self._settings, self._known = (
            context,
            evaluator,
            settings,
            known,
        )
        self.histories: list[list[Rated]] = []  # of what was explored

    def explore(self, strategy: Strategy, path: Path, label: str) -> None:
        """Go on with a strategy to its end.

        Args:
            strategy: not told anything yet.
            path: its journal.
            label: of the progress bar.

        Raises:
            Stopped: if that was asked; what has been rated is in the journal.
        """
        context = self._context
        self.histories.append(strategy.history)
        scores = journal.replay(path, strategy)
        context.ranks.any()  # nobody writes before all have read
        total = strategy.total
        done = len(strategy.history) + len(scores)
        if done and not strategy.done:
            context.console.say(f"Going on after {done} candidates.")
        with context.console.bar(label, total, done) as bar, context.stopping.listening():
            while not strategy.done:
                asked = strategy.ask()
                stopped = False
                for chunk in self._chunks(asked[len(scores) :]):
                    # who races against whom decides who drops out: a generation of which a part
                    # is written already is raced whole
                    field = asked if self._settings.racing else chunk
                    scores += self._rate(path, strategy, chunk, field, done)
                    done += len(chunk)
                    bar.update(done, _best(strategy, asked, scores))
                    if context.ranks.any(context.stopping.asked(self._longest))[0]:
                        stopped = True
                        break
                if stopped and len(scores) < len(asked):
                    raise context.stopping.error(f"Stopped after {done} of {total} candidates")
                strategy.tell(scores)
                scores = []
                best = strategy.top(MAX_REMEMBERED)
                self._evaluator.forget_others([one.candidate.architecture for one in best])
                if stopped and not strategy.done:
                    raise context.stopping.error(f"Stopped after {done} of {total} candidates")

    def _chunks(self, asked: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
        """Divide a generation: stopping need not wait for its end. A race is never divided."""
        self._longest = 0.0
        size = len(asked) if self._settings.racing else 2 * self._context.ranks.size
        start = 0
        while start < len(asked):
            began = time.monotonic()
            yield asked[start : start + size]
            seconds = time.monotonic() - began
            self._longest = max(self._longest, 2 * seconds)
            start += size
            size = max(1, int(size * CHUNK_SECONDS / max(self._agreed(seconds), 1e-3)))

    def _agreed(self, seconds: float) -> float:
        """Return the first process's seconds: all must divide alike."""
        return float(self._context.ranks.first(lambda: seconds))

    def _rate(
        self,
        path: Path,
        strategy: Strategy,
        chunk: Sequence[Candidate],
        field: Sequence[Candidate],
        start: int,
    ) -> list[Score]:
        """Score some candidates, rated beside a field, and append them to the journal."""
        known = {
            one.architecture: self._known[name]
            for one in field
            if (name := name_of(one.architecture)) in self._known
        }
        fresh = [one.architecture for one in field if one.architecture not in known]
        found = dict(zip(fresh, self._scores(strategy, fresh), strict=True)) if fresh else {}
        found |= {one: score for one, (score, _) in known.items()}
        scores = [found[one.architecture] for one in chunk]
        reused = {one: whose for one, (_, whose) in known.items()}
        if self._context.ranks.is_first:
            costs = strategy.candidates.costs.of
            journal.write(path, list(zip(chunk, scores, strict=True)), start, costs, reused=reused)
            self._context.ledger.write(start + len(chunk))
        return scores

    def _scores(self, strategy: Strategy, fresh: Sequence[Architecture]) -> list[Score]:
        evaluator = self._evaluator
        if not self._settings.racing:
            return [racing.full(numbers) for numbers in evaluator.rate(fresh)]
        keeps = max(strategy.keeps, self._settings.top_k)
        elders = [one.candidate.architecture for one in strategy.top(keeps)]

        def values(which: Sequence[int], end: int) -> Any:
            return evaluator.rate([fresh[index] for index in which], end)

        return racing.race(
            len(fresh),
            values,
            evaluator.batches.ends,
            evaluator.rate(elders),
            keeps=keeps,
            confidence=self._settings.confidence,
        )[0]


def _best(strategy: Strategy, asked: Sequence[Candidate], scores: Sequence[Score]) -> str:
    """Say what the best so far is."""
    told = [(one.rating, one.candidate.architecture) for one in strategy.top(1)]
    told += [
        (score.rating, one.architecture)
        for one, score in zip(asked, scores, strict=False)
        if score.complete
    ]
    if not told:
        return ""
    rating, one = max(told, key=lambda pair: pair[0])
    return f"best {rating:.4f} ({format_quantity(params(one))} params)"


def name_of(one: Architecture) -> str:
    """Return what names a network whatever its head: ratings do not look at it."""
    return one.replace(num_classes=None).digest()


def known_ratings(context: Context, key: str, mine: Path) -> dict[str, tuple[Score, str]]:
    """Collect the ratings of this run's other searches that are still valid: made by the same key.

    Args:
        context: the stage at work.
        key: see `Evaluator.key`.
        mine: the folder of this search.
    """

    def collect() -> list[list[Any]]:
        found: list[list[Any]] = []
        for folder in sorted(mine.parent.glob("*/")):
            claim = folder / SETTINGS
            if folder == mine or not claim.exists() or read_json(claim).get("rated_by") != key:
                continue
            for path in sorted(folder.glob("*.jsonl")):
                found += _complete(path, folder.name)
        return found

    entries = context.ranks.first(collect)
    known = {
        name: (Score(rating, error, images), whose)
        for name, rating, error, images, whose in entries
    }
    if known:
        context.console.say(f"{len(known):,} networks were rated alike before, and are not again.")
    return known


def _complete(path: Path, whose: str) -> list[list[Any]]:
    rated: list[list[Any]] = []
    for entry in read_lines(path):
        if "architecture" not in entry or "rating" not in entry:
            continue
        try:
            one, score = Architecture.from_dict(entry["architecture"]), journal.read_score(entry)
        except (MasktasError, TypeError, ValueError, KeyError):
            continue  # not ours to complain about: that search will
        if score.complete and score.images is not None:
            rated.append([name_of(one), score.rating, score.error, score.images, whose])
    return rated
