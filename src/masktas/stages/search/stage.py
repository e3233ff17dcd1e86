"""images + supernet -> search/NAME/: the best architecture within a budget (SPEC 4)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from masktas.artifacts import Stage, file_digest, write_text
from masktas.config import DataSettings, RuntimeSettings, SearchSettings
from masktas.console import Console
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError
from masktas.measure.target import Measure
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.adapter import InputSpec
from masktas.nn.teachers.function import Ask
from masktas.seeding import seed_for
from masktas.space import SearchSpace
from masktas.stages.common import charts
from masktas.stages.common.budget import costed
from masktas.stages.common.evaluator import Evaluator
from masktas.stages.common.labels import labels_of, read_labels
from masktas.stages.common.load import SPACE, load_supernet, load_teacher, teacher_file
from masktas.stages.common.stage import Context, Data, ImageInput
from masktas.stages.search.results import (
    Answer,
    Answers,
    LatencyCheck,
    drawn_alike,
    objectives_for,
    same_size,
    write_front,
)
from masktas.stages.search.runner import (
    HISTORY,
    SearchRunner,
    known_ratings,
    name_of,
    strategy_for,
)
from masktas.strategies import RandomSearch, Rated, Strategy
from masktas.train.networks import WEIGHTS, save_architecture, save_network

RANDOM_HISTORY = "random.jsonl"  # of the baseline


def search(
    data: Data | None = None,
    *,
    out: str | Path,
    name: str = "main",
    settings: SearchSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    teacher: Ask | None = None,
    measure: Measure | None = None,
) -> dict[str, Any]:
    """Search the supernet for the best architecture within a budget, without labels.

    Args:
        data: images to search for; those of the supernet if None.
        out: the run folder, with a finished `supernet/`; `search/NAME/` is written in it.
        name: of this search; one run can hold many. What one has rated, the others need not rate
            again.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: start afresh.
        teacher: the function that the supernet has learnt from, where it was one.
        measure: a function from network to milliseconds of one inference, for a latency budget
            on what this machine is not: a phone, a board.

    Returns:
        The manifest, with `winner`, `top`, `front`, `uniform`, `random` and `random_search` (each
        architecture with rating, standard error and costs), and `ahead`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(out, runtime, console, overwrite=overwrite)
    settings = settings or SearchSettings()
    settings.require_together()
    images = context.images_recorded(context.run.supernet, data, data_settings)
    space = SearchSpace.load(context.run.supernet.folder / SPACE)
    if settings.num_classes is not None:
        space = space.replace(num_classes=settings.num_classes)
    candidates, target, models = costed(
        context.run,
        space,
        settings,
        latency="latency" in (settings.objectives or ""),
        measure=measure,
        seed=context.seed,
        console=context.console,
    )
    objectives = objectives_for(settings.objectives, candidates.budget)
    strategy = strategy_for(settings, candidates, objectives, seed_for(context.seed, "search"))
    images.require_fit(space.largest, f"space {space.name}")
    images.source()
    stage = context.run.search(name)
    made_from = {
        "teacher": teacher_file(context.run),
        "supernet": context.run.supernet.folder / WEIGHTS,
    }
    shared = load_supernet(context.run)
    shared.space = space
    store = context.open_images(images, allowed=("search",))
    frozen = load_teacher(
        context.run,
        InputSpec.of(space.largest, store.mean, store.std),
        context.runtime.device,
        teacher,
    )
    judge = Evaluator(
        context,
        shared,
        frozen,
        store,
        settings,
        candidates,
        labels=lambda: _labels(images, store),
        raced=settings.racing,
    )
    key = judge.key({name: file_digest(path) for name, path in made_from.items()})
    parents = made_from | models
    if not context.begin(stage, settings, parents=parents, images=images.to_dict(), rated_by=key):
        return stage.manifest()

    known = known_ratings(context, key, stage.folder)
    explorer = SearchRunner(context, judge, settings, known)
    explorer.explore(strategy, stage.folder / HISTORY, "search")
    answers = Answers(context, judge, candidates, LatencyCheck(context, target, stage.folder))
    found = _find(context, stage, settings, strategy, explorer, answers, objectives)

    def results() -> dict[str, Any]:
        _write(stage, shared, found, objectives)
        _draw_front(context, stage.folder, found, objectives[0])
        return context.finish(
            stage,
            store,
            _cost(explorer.histories, judge, known),
            parents=parents,
            budget=candidates.budget.to_dict(),
            space=space.to_dict(),
            feasible=candidates.size(),
            rated=len(strategy.history),
            reused=len([one for one in strategy.history if _was_known(one, known)]),
            objectives=list(objectives),
            latency_target=dict(candidates.costs.latency.target)
            if candidates.costs.latency
            else None,
            **found.to_dict(),
        )

    return context.ranks.first(results)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search has found, and what that is compared with.

    Attributes:
        top: the best, the winner first.
        front: what no other network beats in rating and costs at once.
        uniform: the largest network that meets the budget with all blocks alike, if one does.
        drawn: random networks of the winner's size.
        random_search: the best of as many random networks of the winner's size as the search has
            rated; None where it was left out.
        ahead: by how much the winner's rating is higher than those of the last ones, and the
            standard error of that, image by image.
    """

    top: list[Answer]
    front: list[Answer]
    uniform: Answer | None
    drawn: list[Answer]
    random_search: Answer | None
    ahead: dict[str, dict[str, float | None]]

    def to_dict(self) -> dict[str, Any]:
        """Return it as manifests tell of it."""
        return {
            "winner": self.top[0].to_dict(),
            "top": [one.to_dict() for one in self.top],
            "front": [one.to_dict() for one in self.front],
            "uniform": self.uniform and self.uniform.to_dict(),
            "random": [one.to_dict() for one in self.drawn],
            "random_search": self.random_search and self.random_search.to_dict(),
            "ahead": self.ahead,
        }


def _find(
    context: Context,
    stage: Stage,
    settings: SearchSettings,
    strategy: Strategy,
    explorer: SearchRunner,
    answers: Answers,
    objectives: tuple[str, ...],
) -> SearchResult:
    """Pick the winner and the front, and give the baselines the same chance."""
    candidates = strategy.candidates
    top = answers.best(strategy, settings.top_k)
    winner = top[0]
    alike = same_size(candidates, winner.architecture)
    random_search = None
    if settings.baselines:
        chance = RandomSearch(
            alike,
            population=settings.population,
            generations=-(-len(strategy.history) // settings.population),
            seed=seed_for(context.seed, "baselines", "search"),
        )
        explorer.explore(chance, stage.folder / RANDOM_HISTORY, "random search")
        random_search = next(iter(answers.kept(chance, 1)), None)
    uniform = candidates.largest_uniform()
    drawn = drawn_alike(alike, winner.architecture, settings.baselines, context.seed)
    beside = answers.measure(answers.rate([*drawn, *([uniform] if uniform else [])]))
    others = {"uniform": beside[-1] if uniform else None, "random_search": random_search}
    return SearchResult(
        top,
        answers.front(strategy, objectives),
        others["uniform"],
        beside[: len(drawn)],
        random_search,
        {name: answers.ahead(winner, one) for name, one in others.items() if one},
    )


def _write(
    stage: Stage, shared: Supernet, found: SearchResult, objectives: tuple[str, ...]
) -> None:
    """Write networks and front."""
    folder = stage.folder
    for place, one in enumerate(found.top, start=1):
        of_one = folder if place == 1 else folder / f"top-{place}"
        save_network(of_one, shared.extract(one.architecture).cpu(), rating=one.score.rating)
    named = {f"random-{number}": one for number, one in enumerate(found.drawn, start=1)}
    named |= {"uniform": found.uniform} if found.uniform else {}
    named |= {"random-search": found.random_search} if found.random_search else {}
    for name, one in named.items():
        save_architecture(folder / f"{name}.json", one.architecture, rating=one.score.rating)
    write_front(folder, found.front, objectives)


def _draw_front(context: Context, folder: Path, found: SearchResult, cost: str) -> None:
    """Write front.svg; warn and leave it out if matplotlib is not installed."""
    try:
        picture = charts.front(found.to_dict(), cost)
    except ConfigError as error:
        context.console.warn(f"{error} The search writes no front.svg.")
        return
    write_text(folder / "front.svg", picture)


def _cost(histories: list[list[Rated]], judge: Evaluator, known: dict[str, Any]) -> dict[str, Any]:
    """Count images, and products of encoding them and relating their patches (16).

    What relatives of a generation share is counted once.
    """
    images, products = 0, float(judge.teacher_macs() * judge.num_images)
    for history in histories:
        rated = [one for one in history if not _was_known(one, known)]
        for _, generation in itertools.groupby(rated, lambda one: one.candidate.generation):
            seen = [(one.candidate.architecture, one.score.images or 0) for one in generation]
            images += sum(count for _, count in seen)
            products += judge.products_of(seen)
    return {"images": images, "flops": round(2 * products)}


def _was_known(one: Rated, known: dict[str, Any]) -> bool:
    return name_of(one.candidate.architecture) in known


def _labels(images: ImageInput, store: ImageStore) -> Tensor:
    """Return the class of each image of the search split."""
    return labels_of(read_labels(images.source())[0], store.images("search"))
