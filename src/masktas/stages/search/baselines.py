"""What the winner of a search is compared with (SPEC 6.3), rated on the same images and masks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from masktas.config import SearchSettings
from masktas.seeding import seed_for
from masktas.space import Architecture, BudgetedSpace
from masktas.space.shapes import house_shape
from masktas.stages.common.manifest import RatingDifference, SearchResult
from masktas.stages.search.results import ResultBuilder
from masktas.stages.search.runner import SearchRunner
from masktas.strategies import Evaluated, RandomSearch, Strategy, Uniforms

RANDOM_HISTORY, UNIFORM_HISTORY = "random.jsonl", "uniforms.jsonl"


def find_result(
    folder: Path,
    settings: SearchSettings,
    strategy: Strategy,
    runner: SearchRunner,
    builder: ResultBuilder,
    objectives: tuple[str, ...],
    seed: int,
) -> SearchResult:
    """Pick winners and front, and rate the baselines.

    Args:
        folder: of the stage, which holds the journals of the searches for baselines.
        settings: of the search.
        strategy: has ended.
        runner: runs these searches.
        builder: picks and rates.
        objectives: the costs of the front.
        seed: of the random baselines.
    """
    candidates = strategy.candidates
    top = builder.best(strategy, settings.top_k)
    winner = top[0]
    searched = _searched(folder, settings, len(strategy.history), candidates, runner, builder, seed)
    house = house_shape(candidates.space, candidates.allows)
    uniform = candidates.largest_uniform()
    drawn = draw_baselines(candidates, winner.architecture, settings.baselines, seed)
    fixed = [one for one in dict.fromkeys((house, uniform)) if one is not None]
    rated = builder.rate([*drawn, *fixed])
    named = {one.architecture: one for one in rated[len(drawn) :]}
    single = searched | {
        "house": None if house is None else named[house],
        "uniform": None if uniform is None else named[uniform],
    }
    compared: dict[str, Sequence[Evaluated]] = {
        name: (one,) for name, one in single.items() if one is not None
    }
    compared |= {"random": tuple(rated[: len(drawn)])} if drawn else {}
    ahead: dict[str, RatingDifference] = {
        name: builder.ahead(winner, others) for name, others in sorted(compared.items())
    }
    return SearchResult(
        top=tuple(top),
        front=tuple(builder.front(strategy, objectives)),
        house=single["house"],
        uniform=single["uniform"],
        best_uniform=single["best_uniform"],
        random=tuple(rated[: len(drawn)]),
        random_search=single["random_search"],
        ahead=ahead,
    )


def _searched(
    folder: Path,
    settings: SearchSettings,
    num_rated: int,
    candidates: BudgetedSpace,
    runner: SearchRunner,
    builder: ResultBuilder,
    seed: int,
) -> dict[str, Evaluated | None]:
    """Search for the best uniform network, and at random with as many ratings as the search."""
    if not settings.baselines:
        return {"random_search": None, "best_uniform": None}
    random_search = RandomSearch(
        candidates,
        population=settings.population,
        generations=-(-num_rated // settings.population),
        seed=seed_for(seed, "baselines", "search"),
    )
    runner.run(random_search, folder / RANDOM_HISTORY, "random search")
    uniforms = Uniforms(candidates, population=settings.population)
    runner.run(uniforms, folder / UNIFORM_HISTORY, "uniform networks")
    return {
        "random_search": next(iter(builder.kept(random_search, 1)), None),
        "best_uniform": next(iter(builder.kept(uniforms, 1)), None),
    }


def draw_baselines(
    candidates: BudgetedSpace, winner: Architecture, count: int, seed: int
) -> list[Architecture]:
    """Draw distinct random architectures other than the winner."""
    rng = random.Random(seed_for(seed, "baselines"))
    drawn: list[Architecture] = []
    for _ in range(20 * count):
        one = candidates.sample(rng)
        if len(drawn) < count and one != winner and one not in drawn:
            drawn.append(one)
    return drawn
