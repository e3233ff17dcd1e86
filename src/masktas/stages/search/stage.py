"""images + supernet -> search/NAME/: the best architecture within a budget (SPEC 4)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from masktas.artifacts import HISTORY, SPACE, file_digest, write_text
from masktas.config import DataSettings, RuntimeSettings, SearchSettings
from masktas.console import Console
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError
from masktas.measure.target import Measure
from masktas.nn.patches import num_visible_checked
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import Ask
from masktas.nn.units import units_of
from masktas.ratings.evaluator import Evaluator
from masktas.seeding import seed_for
from masktas.space import BudgetedSpace, SearchSpace
from masktas.stages.common import charts
from masktas.stages.common.budget import costed
from masktas.stages.common.images import Data, ImageInput, labels_of, read_labels
from masktas.stages.common.load import (
    load_supernet,
    load_teacher,
    student_input,
    teacher_file,
)
from masktas.stages.common.manifest import SearchResult
from masktas.stages.common.stage import Context
from masktas.stages.search.baselines import find_result
from masktas.stages.search.results import (
    LatencyCheck,
    ResultBuilder,
    objectives_for,
    write_front,
)
from masktas.stages.search.runner import (
    SearchRunner,
    known_ratings,
    name_of,
    strategy_for,
)
from masktas.strategies import Evaluated, Strategy
from masktas.train.input import NetworkInput
from masktas.train.networks import WEIGHTS, save_architecture, save_network


def check(settings: SearchSettings, space: SearchSpace) -> BudgetedSpace:
    """Refuse a search that cannot succeed in a space.

    Returns:
        The architectures within all limits but those on latency.

    Raises:
        ConfigError: if settings do not go together, or too few patches stay visible.
        BudgetError: if no architecture meets the budget.
    """
    candidates = settings.check(space)
    if settings.is_masked:
        units = units_of(space.image_size, space.unit)
        num_visible_checked(units.total, settings.mask_ratio, least=3)
    return candidates


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
    accept_changed_images: bool = False,
    teacher: Ask | None = None,
    measure: Measure | None = None,
) -> dict[str, Any]:
    """Search the supernet for the best architecture within a budget, without labels.

    Args:
        data: images to search on; those of the supernet if None.
        out: the run folder, with a finished `supernet/`; `search/NAME/` is written in it.
        name: of this search; a run can hold several, which reuse one another's ratings.
        settings, data_settings, runtime: see `masktas.config`.
        console: where progress is shown.
        overwrite: delete earlier results and start again.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.
        teacher: the function that taught the supernet, if it was one.
        measure: a function from network to milliseconds of one inference, for a latency budget
            on another device, such as a phone.

    Returns:
        The manifest, with `winner`, `top`, `front` and the baselines `house`, `uniform`,
        `best_uniform`, `random` and `random_search` (each architecture with rating, standard error
        and costs), and `ahead`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(
        out,
        runtime,
        console,
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    settings = settings or SearchSettings()
    images = context.images_recorded(context.run.supernet, data, data_settings)
    candidates, target, models = costed(
        context.run,
        check(settings, SearchSpace.load(context.run.supernet.folder / SPACE)),
        settings,
        latency="latency" in (settings.objectives or ""),
        measure=measure,
        seed=context.seed,
        console=context.console,
        min_use=settings.min_use,
    )
    objectives = objectives_for(settings.objectives, candidates.budget)
    strategy = strategy_for(settings, candidates, objectives, seed_for(context.seed, "search"))
    opened = _open(context, settings, candidates, images, teacher)
    made_from = {
        "teacher": teacher_file(context.run),
        "supernet": context.run.supernet.folder / WEIGHTS,
    }
    key = opened.evaluator.key({name: file_digest(path) for name, path in made_from.items()})
    with context.stage(
        context.run.search(name),
        settings,
        parents=made_from | models,
        images=images,
        store=opened.store,
        more={"rated_by": key},
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        known = known_ratings(context, key, stage.folder)
        runner = SearchRunner(context, stage.ledger, opened.evaluator, settings, known)
        runner.run(strategy, stage.folder / HISTORY, "search")
        latency = LatencyCheck(context, target, stage.folder)
        builder = ResultBuilder(context, opened.evaluator, candidates, latency)
        found = find_result(
            stage.folder, settings, strategy, runner, builder, objectives, context.seed
        )

        def write() -> dict[str, Any]:
            seen = NetworkInput.of_store(opened.store)
            _write(stage.folder, opened.supernet, found, objectives, seen)
            _draw_front(context, stage.folder, found, objectives[0])
            return _summary(strategy, known, objectives) | found.to_dict()

        cost = _cost(runner.histories, opened.evaluator, known)
        return stage.finish(opened.store, cost, write)


@dataclass(frozen=True, slots=True)
class OpenedSearch:
    """What a search reads of a run: the supernet, the images, and the evaluator over both."""

    supernet: Supernet
    store: ImageStore
    evaluator: Evaluator


def _open(
    context: Context,
    settings: SearchSettings,
    candidates: BudgetedSpace,
    images: ImageInput,
    teacher: Ask | None,
) -> OpenedSearch:
    """Load supernet and teacher, open the images, and build the evaluator."""
    space = candidates.space
    images.require_fit(space.largest, f"space {space.name}")
    images.source()
    supernet = load_supernet(context.run, space)
    store = context.open_images(images, allowed=("search",))
    seen = student_input(space, supernet.units, store)
    evaluator = Evaluator(
        supernet,
        load_teacher(context.run, seen, context.runtime.device, teacher),
        store,
        settings,
        candidates,
        ranks=context.ranks,
        runtime=context.runtime,
        seed=context.seed,
        say=context.console.say,
        labels=lambda: _labels(images, store),
        raced=settings.racing,
    )
    return OpenedSearch(supernet, store, evaluator)


def _summary(
    strategy: Strategy, known: dict[str, Any], objectives: tuple[str, ...]
) -> dict[str, Any]:
    """Return the entries of the manifest about the budget and the number of networks."""
    candidates, model = strategy.candidates, strategy.candidates.costs.latency
    return {
        "budget": candidates.budget.to_dict(),
        "space": candidates.space.to_dict(),
        "feasible": candidates.size(),
        "rated": len(strategy.history),
        "reused": len([one for one in strategy.history if _was_known(one, known)]),
        "objectives": list(objectives),
        "latency_target": None if model is None else dict(model.target),
    }


def _write(
    folder: Path,
    shared: Supernet,
    found: SearchResult,
    objectives: tuple[str, ...],
    seen: NetworkInput,
) -> None:
    """Write networks and front."""
    for place, one in enumerate(found.top, start=1):
        of_one = folder if place == 1 else folder / f"top-{place}"
        network = shared.extract(one.architecture).cpu()
        save_network(of_one, network, seen=seen, rating=one.rating)
    for name, one in found.baselines.items():
        save_architecture(folder / f"{name}.json", one.architecture, rating=one.rating)
    write_front(folder, found.front, objectives)


def _draw_front(context: Context, folder: Path, found: SearchResult, cost: str) -> None:
    """Write front.svg; warn and leave it out if matplotlib is not installed."""
    try:
        chart = charts.front(found, cost)
    except ConfigError as error:
        context.console.warn(f"{error} The search writes no front.svg.")
        return
    write_text(folder / "front.svg", chart)


def _cost(
    histories: list[list[Evaluated]], evaluator: Evaluator, known: dict[str, Any]
) -> dict[str, Any]:
    """Count the images rated on, and the operations; blocks shared in a generation count once."""
    batches = evaluator.batches
    images, macs = 0, float(batches.teacher_macs(evaluator.teacher) * batches.num_images)
    for history in histories:
        rated = [one for one in history if not _was_known(one, known)]
        for _, generation in itertools.groupby(rated, lambda one: one.generation):
            counts = [(one.architecture, one.score.images or 0) for one in generation]
            images += sum(count for _, count in counts)
            macs += batches.macs_shared(counts)
    return {"images": images, "flops": round(2 * macs)}


def _was_known(one: Evaluated, known: dict[str, Any]) -> bool:
    return name_of(one.architecture) in known


def _labels(images: ImageInput, store: ImageStore) -> Tensor:
    """Return the class of each image of the search split."""
    return labels_of(read_labels(images.source())[0], store.images("search"))
