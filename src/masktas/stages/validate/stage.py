"""supernet + labels -> validate/NAME/: does the rating without labels rank as accuracy does?

The accuracy of some networks is measured with labels, by fine-tuning or by a classifier of frozen
features, and compared with their ratings (SPEC 4). Overall most of a rating's rank correlation is
size; what counts is the order inside a budget.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from masktas.artifacts import SPACE
from masktas.config import DataSettings, FinetuneSettings, RuntimeSettings, ValidateSettings
from masktas.console import Console
from masktas.data.sources import Source
from masktas.data.store.image_store import ImageStore
from masktas.errors import LabelError
from masktas.measure.budget import costed
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import Ask
from masktas.ratings.batches import batch_size_for
from masktas.ratings.evaluator import Evaluator
from masktas.seeding import seed_for
from masktas.space import Architecture, BudgetedSpace, SearchSpace, cost
from masktas.space.limits import parse_limit
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.images import Data, ImageInput, labels_of, read_labels
from masktas.stages.common.load import (
    load_supernet,
    load_teacher,
    require_distilled,
    student_input,
    teacher_file,
    units_for,
)
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import finetuning_for, with_mask_ratio
from masktas.stages.validate.against import OtherSupernet, open_other
from masktas.stages.validate.comparing import ValidationData, report_findings
from masktas.stages.validate.finetune_probe import FinetuneProbe
from masktas.stages.validate.labelled_images import LabelledImages
from masktas.stages.validate.networks import banded, stratified, within
from masktas.stages.validate.probe_journal import probe
from masktas.stages.validate.probes import (
    FEW_LABELS,
    FeatureProbe,
    Probe,
    linear,
    nearest,
    sklearn,
)
from masktas.stages.validate.ratings import Ratings, RatingTable, rate_networks, rating_passes
from masktas.train.networks import WEIGHTS

NETWORKS = "networks.jsonl"
CHECKPOINTS = "probes"  # of networks that are being fine-tuned
Floats = NDArray[np.float64]
NO_LABELS = "These images have no labels, so only the reliability of each rating is measured, not "
NO_LABELS += "its agreement with accuracy: give DATA with labels (one folder per class, or a "
NO_LABELS += "column `label`), and another --name or --overwrite."


def validate(
    data: Data | None = None,
    *,
    out: str | Path,
    name: str = "main",
    settings: ValidateSettings | None = None,
    finetune_settings: FinetuneSettings | None = None,
    data_settings: DataSettings | None = None,
    runtime: RuntimeSettings | None = None,
    console: Console | None = None,
    overwrite: bool = False,
    accept_changed_images: bool = False,
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Compare ratings with accuracy, over networks of a supernet.

    Without labels only the reliability of each rating is measured.

    Args:
        data: labelled images; those of the supernet if None.
        out: the run folder, with a finished `supernet/`; `validate/NAME/` is written in it.
        name: of this comparison; a run can hold several.
        settings, data_settings, runtime: see `masktas.config`.
        finetune_settings: recipe that accuracy is measured by, with `probe="finetune"`; if None,
            that of the finished `finetune/main`, or the defaults.
        console: where progress, table and verdict are shown.
        overwrite: delete earlier results and start again.
        accept_changed_images: continue with images that have changed since an earlier stage, or
            since this one was started.
        teacher: the function that taught the supernet, if it was one.

    Returns:
        The manifest, with `verdict`, `agreement` by rating, `reliability` and `ceiling`.

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
    context.keep_precision(context.run.validated(name))
    settings = settings or ValidateSettings()
    require_distilled(context.run, "a validation of ratings")
    images = context.images_recorded(context.run.division, data, data_settings)
    trained = SearchSpace.load(context.run.supernet.folder / SPACE)
    images.require_fit(trained.largest, f"space {trained.name}")
    candidates, _, models = costed(
        context.run,
        settings.check(trained),
        settings,
        latency=settings.quantity == "latency",
        measure=None,
        seed=context.seed,
        console=context.console,
        first=context.ranks.first,
    )
    recipe = _recipe(context, settings, finetune_settings, candidates)
    networks, in_band, center = _networks(context, settings, candidates)
    folder = context.run.validated(name)
    units = units_for(context.run, trained)
    settings = with_mask_ratio(
        settings, units.total, None if overwrite else folder, context.console
    )
    opened = _open(context, settings, recipe, in_band, images, teacher, folder.folder)
    claim = {
        "center": center,
        "labelled": opened.probe is not None,
        "finetune": recipe.model_dump(mode="json") if recipe else None,
    }
    with context.stage(
        folder,
        settings,
        parents=_parents(context) | models | opened.parents,
        images=images,
        store=opened.store,
        more=claim,
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        rated, its, correct = _measure(context, stage, opened, networks)
        amounts = [candidates.costs.amount(settings.quantity, one) for one in networks]
        found = ValidationData(
            networks, rated.usual, rated.variants, correct, settings.quantity, amounts, its
        )

        def write() -> dict[str, Any]:
            findings = report_findings(context, found, settings, stage.folder)
            return {
                "space": candidates.space.to_dict(),
                "budget": candidates.budget.to_dict(),
                "center": center,
                "of": settings.quantity,
                "num_networks": len(networks),
                "probe": settings.probe if opened.probe else None,
                "probe_images": opened.probe.images.num_learnt if opened.probe else None,
                "test_split_read": opened.probe is not None and settings.split == "test",
                **findings,
            }

        return stage.finish(opened.store, _cost(networks, rated, opened.probe), write)


def _recipe(
    context: Context,
    settings: ValidateSettings,
    given: FinetuneSettings | None,
    candidates: BudgetedSpace,
) -> FinetuneSettings | None:
    """Return the recipe of fine-tuning: as given, as `finetune/main` recorded it, or the default.

    It is one for all networks; `auto` chooses it by the costliest candidate, as a search within the
    same budget would find about. None if accuracy is not measured by fine-tuning.
    """
    if settings.probe != "finetune":
        return None
    main = context.run.finetune("main")
    if given is None and main.finished:
        recorded = main.manifest()["settings"]["settings"]
        given = FinetuneSettings.model_validate({"recipe": "plain"} | recorded)  # once the only one
    recipe = given or FinetuneSettings()
    if settings.epochs is not None:
        recipe = recipe.model_copy(update={"epochs": settings.epochs})
    return finetuning_for(recipe, candidates.costliest(random.Random(0)))[0]


@dataclass(frozen=True, slots=True)
class OpenedValidation:
    """What a validation reads of a run.

    Attributes:
        supernet: whose subnets are compared.
        store: the images.
        passes: an evaluator for each pass over the images, see `rating_passes`.
        probe: measures accuracy; None without labels.
        other: another run's supernet that rates the same networks, if one does.
    """

    supernet: Supernet
    store: ImageStore
    passes: list[tuple[Evaluator, str]]
    probe: Probe | None
    other: OtherSupernet | None

    @property
    def parents(self) -> dict[str, Path]:
        """The files of the other supernet, by name."""
        return {} if self.other is None else self.other.parents


def _measure(
    context: Context,
    stage: ClaimedStage,
    opened: OpenedValidation,
    networks: list[Architecture],
) -> tuple[RatingTable, Ratings, Floats | None]:
    """Rate and probe all networks: ratings, those by the other supernet, `[S, n, t]` if labelled.

    `[S, n, t]` is 1 where a network is right about a test image.
    """
    device, probing, other = context.runtime.device, opened.probe, opened.other
    opened.supernet.to(device)
    if probing is None:
        context.console.warn(NO_LABELS)
    else:
        context.console.say(probing.about(opened.supernet, networks))
    rated, its = rate_networks(context, opened.passes, networks), {}
    if other is not None:
        other.supernet.to(device)
        more = rate_networks(context, other.passes, networks)
        rated, its = rated.with_cost_of(more), more.usual
    if probing is None:
        return rated, its, None
    journal = stage.folder / NETWORKS
    correct = probe(context, stage.ledger, probing, opened.supernet, networks, journal)
    return rated, its, correct


def _open(
    context: Context,
    settings: ValidateSettings,
    recipe: FinetuneSettings | None,
    in_band: BudgetedSpace,
    images: ImageInput,
    teacher: Ask | None,
    folder: Path,
) -> OpenedValidation:
    """Load supernet and teacher, open the images and read their labels."""
    space = in_band.space
    supernet = load_supernet(context.run, space)
    labels, classes = _labels(images.source())
    if labels and recipe is None:
        sklearn("linear_model")  # a missing package is reported before anything is rated
    splits = ("supernet", "search", settings.split) if labels else ("search",)
    store = context.open_images(images, allowed=splits)
    seen = student_input(space, supernet.units, store)
    frozen = load_teacher(context.run, seen, context.runtime.device, teacher)
    passes = rating_passes(
        context, supernet, frozen, store, settings, in_band, _of_search(labels, store)
    )
    probing: Probe | None = None
    if labels and recipe:
        labelled = _labelled(context, settings, store, labels, ("supernet", "search"))
        probing = FinetuneProbe(
            context, labelled, recipe, classes=classes, folder=folder / CHECKPOINTS
        )
    elif labels:
        labelled = _labelled(context, settings, store, labels, ("supernet",))
        size = settings.batch_size or batch_size_for(
            space.largest, space.largest.num_patches, context.runtime.device.type
        )
        classify = nearest if settings.probe == "knn" else linear
        probing = FeatureProbe(context, labelled, classify, size)
    other = open_other(context, settings, in_band, store, teacher)
    return OpenedValidation(supernet, store, passes, probing, other)


def _labelled(
    context: Context,
    settings: ValidateSettings,
    store: ImageStore,
    labels: list[list[int]],
    learnt: tuple[str, ...],
) -> LabelledImages:
    few = None if settings.probe == "finetune" else FEW_LABELS
    return LabelledImages(
        store,
        labels,
        learnt=learnt,
        tested=settings.split,
        count=settings.probe_images or few,
        seeds=settings.seeds,
        seed=context.seed,
    )


def _parents(context: Context) -> dict[str, Path]:
    return {
        "teacher": teacher_file(context.run),
        "supernet": context.run.supernet.folder / WEIGHTS,
    }


def _networks(
    context: Context, settings: ValidateSettings, candidates: BudgetedSpace
) -> tuple[list[Architecture], BudgetedSpace, float | None]:
    """Choose the networks; also return the space they are drawn from and the center of the band."""
    rng = random.Random(seed_for(context.seed, "validate", "networks"))
    count, what = settings.num_networks, settings.quantity
    center = None
    if settings.share is None:
        networks = stratified(candidates, count, rng)
    else:
        center = _center(context, settings, candidates)
        least, most = (center * (1 + side * settings.share) for side in (-1, 1))
        if what != "latency":
            least, most = max(1, round(least)), round(most)
        candidates = within(candidates, what, least, most)
        networks = banded(candidates, count, rng)
    if len(networks) < count:
        context.console.say(f"Only {len(networks)} networks within {candidates.budget} were found.")
    return networks, candidates, center


def _center(context: Context, settings: ValidateSettings, candidates: BudgetedSpace) -> float:
    """Return the middle of the band: as given, that of the winner, or of what is feasible."""
    what, costs = settings.quantity, candidates.costs
    searched = context.run.search("main")
    if settings.center is not None:
        center = parse_limit(what, settings.center).resolve(candidates.space, costs)
    elif searched.finished:
        winner = Architecture.from_dict(searched.manifest()["winner"]["architecture"])
        center = costs.amount(what, winner.replace(num_classes=candidates.space.num_classes))
    else:
        center = sum(candidates.cost_range(what)) / 2
    return center if what == "latency" else round(center)


def _labels(source: Source) -> tuple[list[list[int]] | None, int]:
    """Return the labels, as `read_labels`, and the number of classes; None if there are none."""
    try:
        labels, classes = read_labels(source)
    except LabelError:
        return None, 0
    return (labels, len(classes)) if len(classes) > 1 else (None, 0)


def _of_search(labels: list[list[int]] | None, store: ImageStore) -> Callable[[], Tensor] | None:
    """Return a function that returns the classes of the images that networks are rated on."""
    if labels is None:
        return None
    return lambda: labels_of(labels, store.images("search"))


def _cost(
    networks: list[Architecture], rated: RatingTable, probing: Probe | None
) -> dict[str, Any]:
    """Count images, and the products of encoders (and of classifiers in training) over them."""
    images, products = rated.num_encoded, rated.macs
    if probing is not None:
        trained, seen = probing.num_trained, probing.num_seen
        images += len(networks) * (trained + seen)
        for one in networks:
            products += trained * cost.training_macs(one, one.num_patches, 0)
            products += seen * cost.encoder_macs(one, one.num_patches)
    return {"images": images, "flops": 2 * products}
