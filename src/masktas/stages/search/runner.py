"""Run a search strategy: rate what it asks for, keep the journal, reuse ratings, resume."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from masktas.artifacts import SETTINGS
from masktas.config import StrategySettings
from masktas.errors import MasktasError
from masktas.files import read_json, read_lines
from masktas.ratings.evaluator import MAX_REMEMBERED, Evaluator
from masktas.space import Architecture, BudgetedSpace, format_quantity, params
from masktas.stages.common.stage import Context
from masktas.strategies import (
    NSGA2,
    Candidate,
    Evaluated,
    Evolution,
    Exhaustive,
    LocalSearch,
    RandomSearch,
    Score,
    Strategy,
    journal,
    racing,
)
from masktas.train.log import Ledger

CHUNK_SECONDS = 10.0  # of rating between two checks for a request to stop


def strategy_for(
    settings: StrategySettings, candidates: BudgetedSpace, objectives: Sequence[str], seed: int
) -> Strategy:
    """Return the strategy of the settings."""
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
        simple = settings.simple_shapes
        return NSGA2(candidates, objectives=objectives, costs=costs, simple_shapes=simple, **bounds)
    if settings.strategy == "exhaustive":
        return Exhaustive(candidates, population=settings.population)
    return Evolution(
        candidates,
        parents=settings.parents,
        depth_probability=settings.depth_probability,
        block_probability=settings.block_probability,
        diversity=settings.diversity,
        simple_shapes=settings.simple_shapes,
        shape_probability=settings.shape_probability,
        **bounds,
    )


class SearchRunner:
    """Rates the candidates that a strategy asks for, and writes them to a journal.

    Args:
        context: of the search stage.
        ledger: of the stage.
        evaluator: rates.
        settings: whether candidates race, and how many of the best are wanted.
        known: valid scores of other searches, and the search each is from; by `name_of`.

    Attributes:
        histories: of all strategies that were run.
        reused: by `name_of`, the networks whose scores came from other searches, as the journals
            say; also those of attempts that were interrupted.
    """

    def __init__(
        self,
        context: Context,
        ledger: Ledger,
        evaluator: Evaluator,
        settings: StrategySettings,
        known: dict[str, tuple[Score, str]],
    ) -> None:
        self._context, self._ledger, self._evaluator = context, ledger, evaluator
        self._settings, self._known = settings, known
        self.histories: list[list[Evaluated]] = []
        self.reused: set[str] = set()

    def run(self, strategy: Strategy, path: Path, label: str) -> None:
        """Run a strategy to its end, from where its journal ends.

        Args:
            strategy: without any scores yet.
            path: its journal.
            label: of the progress bar.

        Raises:
            Stopped: on request; what has been rated is in the journal.
        """
        context = self._context
        self.histories.append(strategy.history)
        scores = journal.replay(path, strategy)
        self.reused |= {name_of(one) for one in journal.reused(path)}
        context.ranks.any()  # no rank writes before all have read
        total = strategy.total
        done = len(strategy.history) + len(scores)

        def progress(done: int) -> str:
            return f"Stopped after {done} of {total} candidates ({label})"

        if done and not strategy.done:
            context.console.say(f"Resuming after {done} candidates ({label}).")
        with context.console.bar(label, total, done) as bar, context.stopping.listening():
            while not strategy.done:
                asked = strategy.ask()
                stopped = False
                for chunk in self._chunks(asked[len(scores) :]):
                    # Who is dropped depends on all that race: if a part of a generation is in the
                    # journal already, all of it races again.
                    field = asked if self._settings.racing else chunk
                    scores += self._rate(path, strategy, chunk, field, done)
                    done += len(chunk)
                    bar.update(done, _best(strategy, asked, scores))
                    if context.ranks.any(context.stopping.asked(self._longest))[0]:
                        stopped = True
                        break
                if stopped and len(scores) < len(asked):
                    raise context.stopping.error(progress(done))
                strategy.tell(scores)
                scores = []
                best = strategy.top(MAX_REMEMBERED)
                self._evaluator.forget_others([one.architecture for one in best])
                if stopped and not strategy.done:
                    raise context.stopping.error(progress(done))

    def _chunks(self, asked: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
        """Divide a generation, so that a stop need not wait for its end; a race is not divided."""
        self._longest = 0.0
        size = len(asked) if self._settings.racing else 2 * self._context.ranks.size
        start = 0
        while start < len(asked):
            began = time.monotonic()
            yield asked[start : start + size]
            seconds = time.monotonic() - began
            self._longest = max(self._longest, 2 * seconds)
            start += size
            agreed = self._agreed(seconds)
            size = max(1, int(size * CHUNK_SECONDS / max(agreed, 1e-3)))

    def _agreed(self, seconds: float) -> float:
        """Return rank 0's seconds: all ranks must divide a generation alike."""
        return float(self._context.ranks.first(lambda: seconds))

    def _rate(
        self,
        path: Path,
        strategy: Strategy,
        chunk: Sequence[Candidate],
        field: Sequence[Candidate],
        start: int,
    ) -> list[Score]:
        """Rate candidates, or reuse known scores, and append them to the journal.

        Args:
            path: the journal.
            strategy: asked for them.
            chunk: the candidates.
            field: all candidates that race, the chunk among them.
            start: the number of the chunk's first candidate within the search.
        """
        known = {
            one.architecture: self._known[name]
            for one in field
            if (name := name_of(one.architecture)) in self._known
        }
        self.reused |= {name_of(one.architecture) for one in chunk if one.architecture in known}
        fresh = [one.architecture for one in field if one.architecture not in known]
        scores = {architecture: score for architecture, (score, _) in known.items()}
        if fresh:
            scores |= zip(fresh, self._scores(strategy, fresh), strict=True)
        if self._context.ranks.is_first:
            costs = strategy.candidates.costs
            evaluated = [
                one.with_score(scores[one.architecture], costs.of(one.architecture))
                for one in chunk
            ]
            reused = {architecture: search for architecture, (_, search) in known.items()}
            journal.write(path, evaluated, start, reused=reused)
            self._ledger.write(start + len(chunk))
        return [scores[one.architecture] for one in chunk]

    def _scores(self, strategy: Strategy, fresh: Sequence[Architecture]) -> list[Score]:
        """Rate architectures: on all images, or in a race against the best so far."""
        evaluator = self._evaluator
        if not self._settings.racing:
            return [racing.full(numbers) for numbers in evaluator.rate(fresh)]
        keeps = max(strategy.keeps, self._settings.top_k)
        scores, _ = racing.race(
            fresh,
            evaluator.rate,
            evaluator.batches.ends,
            evaluator.rate([one.architecture for one in strategy.top(keeps)]),
            keeps=keeps,
            confidence=self._settings.confidence,
        )
        return scores


def _best(strategy: Strategy, asked: Sequence[Candidate], scores: Sequence[Score]) -> str:
    """Describe the best candidate so far."""
    rated = [(one.rating, one.architecture) for one in strategy.top(1)]
    rated += [
        (score.rating, one.architecture)
        for one, score in zip(asked, scores, strict=False)
        if score.complete
    ]
    if not rated:
        return ""
    rating, architecture = max(rated, key=lambda pair: pair[0])
    return f"best {rating:.4f} ({format_quantity(params(architecture))} params)"


def name_of(architecture: Architecture) -> str:
    """Return a digest that is independent of the head, on which no rating depends."""
    return architecture.replace(num_classes=None).digest()


def known_ratings(context: Context, key: str, folder: Path) -> dict[str, tuple[Score, str]]:
    """Collect the ratings of this run's other searches that were made with the same key.

    Args:
        context: of the search stage.
        key: see `Evaluator.key`.
        folder: of this search.
    """

    def collect() -> list[list[Any]]:
        found: list[list[Any]] = []
        for other in sorted(folder.parent.glob("*/")):
            claim = other / SETTINGS
            if other == folder or not claim.exists() or read_json(claim).get("rated_by") != key:
                continue
            for path in sorted(other.glob("*.jsonl")):
                found += _complete(path, other.name)
        return found

    entries = context.ranks.first(collect)
    known = {
        name: (Score(rating, error, images), search)
        for name, rating, error, images, search in entries
    }
    if known:
        context.console.say(
            f"Reusing {len(known):,} ratings of other searches with equal settings."
        )
    return known


def _complete(path: Path, search: str) -> list[list[Any]]:
    """Read the complete scores of a journal: name, rating, error, images and search of each."""
    rated: list[list[Any]] = []
    for entry in read_lines(path):
        if "architecture" not in entry or "rating" not in entry:
            continue
        try:
            architecture = Architecture.from_dict(entry["architecture"])
            score = journal.read_score(entry)
        except (MasktasError, TypeError, ValueError, KeyError):
            continue  # a damaged line is an error of that search, not of this one
        if score.complete and score.images is not None:
            rated.append([name_of(architecture), score.rating, score.error, score.images, search])
    return rated
