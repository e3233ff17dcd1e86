"""images + supernet -> search/NAME/: the best architecture within a budget (SPEC 4)."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from masktas.artifacts import HISTORY, SPACE, Run
from masktas.config import DataSettings, RuntimeSettings, SearchSettings
from masktas.config.searching import LABEL_FREE
from masktas.console import Console
from masktas.data.store.image_store import ImageStore
from masktas.errors import ConfigError, LabelError
from masktas.files import file_digest, write_text
from masktas.measure.budget import costed
from masktas.measure.target import Measure
from masktas.nn.patches import num_visible_checked
from masktas.nn.supernet import Supernet
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.function import Ask
from masktas.nn.teachers.teacher import Teacher
from masktas.nn.units import units_of
from masktas.ratings.batches import BY_SIZE, LABELLED
from masktas.ratings.evaluator import Evaluator
from masktas.seeding import seed_for
from masktas.space import BudgetedSpace, SearchSpace
from masktas.stages.common import charts
from masktas.stages.common.images import Data, ImageInput, labels_of, read_labels
from masktas.stages.common.load import (
    load_shared,
    load_teacher,
    shared_classes,
    student_input,
    teacher_file,
    units_for,
)
from masktas.stages.common.manifest import SearchResult
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import with_mask_ratio
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
        total = units_of(space.image_size, space.unit).total
        num_visible_checked(total, settings.ratio_for(total), least=3)
    return candidates


def require_rateable(run: Run, settings: SearchSettings) -> None:
    """Raise ConfigError if a rating needs the teacher of a supernet that was trained with labels.

    Raises:
        ArtifactError: if the supernet is not finished.
    """
    if settings.rating in LABEL_FREE and shared_classes(run) is not None:
        raise ConfigError(
            f"{run.supernet.folder} was trained with labels (--supervised) and has no teacher, "
            f"which --rating {settings.rating} compares with: give --rating accuracy."
        )


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

    A supernet that was trained with labels is searched with labels, by accuracy.

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
    context.keep_precision(context.run.search(name))
    settings = settings or SearchSettings()
    require_rateable(context.run, settings)
    images = context.images_recorded(context.run.division, data, data_settings)
    candidates, target, models = costed(
        context.run,
        check(settings, SearchSpace.load(context.run.supernet.folder / SPACE)),
        settings,
        latency="latency" in (settings.objectives or ""),
        measure=measure,
        seed=context.seed,
        console=context.console,
        first=context.ranks.first,
        min_use=settings.min_use,
    )
    objectives = objectives_for(settings.objectives, candidates.budget)
    strategy = strategy_for(settings, candidates, objectives, seed_for(context.seed, "search"))
    settings = with_mask_ratio(
        settings,
        units_for(context.run, candidates.space).total,
        None if overwrite else context.run.search(name),
        context.console if settings.is_masked else None,
    )
    opened = _open(context, settings, candidates, images, teacher)
    made_from = {"supernet": context.run.supernet.folder / WEIGHTS}
    if opened.evaluator.teacher is not None:
        made_from = {"teacher": teacher_file(context.run)} | made_from
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
        # a size counts the head, which the names of known networks leave out, and costs nothing
        by_size = settings.rating in BY_SIZE
        known = {} if by_size else known_ratings(context, key, stage.folder)
        runner = SearchRunner(context, stage.ledger, opened.evaluator, settings, known)
        runner.run(strategy, stage.folder / HISTORY, "search")
        latency = LatencyCheck(context, target, stage.folder)
        builder = ResultBuilder(context, opened.evaluator, candidates, latency)
        found = find_result(
            stage.folder, settings, strategy, runner, builder, objectives, context.seed
        )

        def write() -> dict[str, Any]:
            seen = NetworkInput.of_store(opened.store, shared_classes(context.run))
            _write(stage.folder, opened.supernet, found, objectives, seen)
            _draw_front(context, stage.folder, found, objectives[0])
            return _summary(strategy, runner.reused, objectives) | found.to_dict()

        cost = _cost(runner.histories, opened.evaluator, runner.reused)
        return stage.finish(opened.store, cost, write)


@dataclass(frozen=True, slots=True)
class OpenedSearch:
    """What a search reads of a run: the supernet, the images, and the evaluator over both."""

    supernet: Supernet | SupervisedSupernet
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
    context.fetch(images)
    supernet = load_shared(context.run, space)
    classes = shared_classes(context.run)
    if classes is not None and settings.rating in LABELLED:
        _require_classes(context.run, images, classes)
    store = context.open_images(images, allowed=("search",))
    seen = student_input(space, supernet.units, store)
    frozen: Teacher | None = None
    if classes is None:
        frozen = load_teacher(context.run, seen, context.runtime.device, teacher)
    elif teacher is not None:
        raise ConfigError(
            f"{context.run.supernet.folder} was trained with labels: leave out teacher=."
        )
    evaluator = Evaluator(
        supernet,
        frozen,
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
    strategy: Strategy, reused: Collection[str], objectives: tuple[str, ...]
) -> dict[str, Any]:
    """Return the entries of the manifest about the budget and the number of networks."""
    candidates, model = strategy.candidates, strategy.candidates.costs.latency
    return {
        "budget": candidates.budget.to_dict(),
        "space": candidates.space.to_dict(),
        "feasible": candidates.size(),
        "rated": len(strategy.history),
        "reused": len([one for one in strategy.history if name_of(one.architecture) in reused]),
        "objectives": list(objectives),
        "latency_target": None if model is None else dict(model.target),
    }


def _write(
    folder: Path,
    shared: Supernet | SupervisedSupernet,
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
    histories: list[list[Evaluated]], evaluator: Evaluator, reused: Collection[str]
) -> dict[str, Any]:
    """Count the images rated on, and the operations; blocks shared in a generation count once."""
    batches = evaluator.batches
    images, macs = 0, float(batches.teacher_macs(evaluator.teacher) * batches.num_images)
    for history in histories:
        rated = [one for one in history if name_of(one.architecture) not in reused]
        for _, generation in itertools.groupby(rated, lambda one: one.generation):
            counts = [(one.architecture, one.score.images or 0) for one in generation]
            images += sum(count for _, count in counts)
            macs += batches.macs_shared(counts)
    return {"images": images, "flops": round(2 * macs)}


def _labels(images: ImageInput, store: ImageStore) -> Tensor:
    """Return the class of each image of the search split."""
    return labels_of(read_labels(images.source())[0], store.images("search"))


def _require_classes(run: Run, images: ImageInput, classes: list[str]) -> None:
    """Raise LabelError unless images have the classes that the shared head tells apart."""
    found = read_labels(images.source())[1]
    if found != classes:
        raise LabelError(
            f"{images.location} has other classes ({_listed(found)}) than {run.supernet.folder} "
            f"has learned ({_listed(classes)}): give the images that it was trained on."
        )


def _listed(classes: list[str]) -> str:
    return ", ".join(classes[:3]) + (f", ... {len(classes)} in all" if len(classes) > 3 else "")
