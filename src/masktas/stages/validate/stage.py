"""supernet + labels -> validate/NAME/: does the rating without labels rank as accuracy does?

A number of networks are probed with labels and compared with their ratings (SPEC 4). Overall most
of a rating's rank correlation is size; what counts is the order inside a budget.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from masktas.artifacts import SPACE
from masktas.config import DataSettings, RuntimeSettings, ValidateSettings
from masktas.console import Console
from masktas.data.sources import Source
from masktas.data.store.image_store import ImageStore
from masktas.errors import LabelError
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import Ask
from masktas.ratings.batches import batch_size_for
from masktas.ratings.evaluator import Evaluator
from masktas.seeding import seed_for
from masktas.space import Architecture, BudgetedSpace, SearchSpace, cost, params
from masktas.space.limits import parse_limit
from masktas.stages.common.budget import costed
from masktas.stages.common.images import Data, ImageInput, labels_of, read_labels
from masktas.stages.common.load import (
    load_supernet,
    load_teacher,
    student_input,
    teacher_file,
)
from masktas.stages.common.stage import Context
from masktas.stages.validate.comparing import ValidationData, report_findings
from masktas.stages.validate.findings import matplotlib
from masktas.stages.validate.networks import banded, stratified, within
from masktas.stages.validate.probe_journal import probe
from masktas.stages.validate.probes import NetworkProbe, ProbeRecipe, sklearn
from masktas.stages.validate.ratings import RatingTable, rate_networks, rating_passes
from masktas.train.networks import WEIGHTS

NETWORKS = "networks.jsonl"
NO_LABELS = "These images have no labels, so only the reliability of each rating is measured, not "
NO_LABELS += "its agreement with accuracy: give DATA with labels (one folder per class, or a "
NO_LABELS += "column `label`), and another --name or --overwrite."


def validate(
    data: Data | None = None,
    *,
    out: str | Path,
    name: str = "main",
    settings: ValidateSettings | None = None,
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
    settings = settings or ValidateSettings()
    images = context.images_recorded(context.run.supernet, data, data_settings)
    trained = SearchSpace.load(context.run.supernet.folder / SPACE)
    images.require_fit(trained.largest, f"space {trained.name}")
    candidates, _, models = costed(
        context.run,
        settings.check(trained),
        settings,
        latency=False,
        measure=None,
        seed=context.seed,
        console=context.console,
    )
    networks, in_band, center = _networks(context, settings, candidates)
    opened = _open(context, settings, candidates, in_band, images, teacher)
    probing = opened.probe
    claim = {"center": center, "labelled": probing is not None}
    with context.stage(
        context.run.validated(name),
        settings,
        parents=_parents(context) | models,
        images=images,
        store=opened.store,
        more=claim,
    ) as stage:
        if not stage.todo:
            return stage.manifest()
        if probing is None:
            context.console.warn(NO_LABELS)
        opened.supernet.to(context.runtime.device)
        rated = rate_networks(context, opened.passes, networks)
        journal = stage.folder / NETWORKS
        correct = None
        if probing is not None:
            correct = probe(context, stage.ledger, probing, opened.supernet, networks, journal)
        found = ValidationData(networks, rated.usual, rated.variants, correct)

        def write() -> dict[str, Any]:
            findings = report_findings(context, found, settings, stage.folder)
            return {
                "space": candidates.space.to_dict(),
                "budget": candidates.budget.to_dict(),
                "center": center,
                "num_networks": len(networks),
                "probe": settings.probe if probing else None,
                "test_split_read": probing is not None and settings.split == "test",
                **findings,
            }

        return stage.finish(opened.store, _cost(networks, rated, probing), write)


@dataclass(frozen=True, slots=True)
class OpenedValidation:
    """What a validation reads of a run.

    Attributes:
        supernet: whose subnets are compared.
        store: the images.
        passes: an evaluator for each pass over the images, see `rating_passes`.
        probe: measures accuracy; None without labels.
    """

    supernet: Supernet
    store: ImageStore
    passes: list[tuple[Evaluator, str]]
    probe: NetworkProbe | None


def _open(
    context: Context,
    settings: ValidateSettings,
    candidates: BudgetedSpace,
    in_band: BudgetedSpace,
    images: ImageInput,
    teacher: Ask | None,
) -> OpenedValidation:
    """Load supernet and teacher, open the images and read their labels."""
    space = candidates.space
    supernet = load_supernet(context.run, space)
    labels, classes = _labels(images.source())
    if labels:
        sklearn("linear_model")  # a missing package is reported before anything is rated
        matplotlib("figure")
    splits = ("supernet", "search", settings.split) if labels else ("search",)
    store = context.open_images(images, allowed=splits)
    seen = student_input(space, supernet.units, store)
    frozen = load_teacher(context.run, seen, context.runtime.device, teacher)
    of_search = _of_search(labels, store)
    return OpenedValidation(
        supernet,
        store,
        rating_passes(context, supernet, frozen, store, settings, in_band, of_search),
        _probing(context, settings, supernet, store, labels, classes) if labels else None,
    )


def _parents(context: Context) -> dict[str, Path]:
    return {
        "teacher": teacher_file(context.run),
        "supernet": context.run.supernet.folder / WEIGHTS,
    }


def _networks(
    context: Context, settings: ValidateSettings, candidates: BudgetedSpace
) -> tuple[list[Architecture], BudgetedSpace, int | None]:
    """Choose the networks; also return the space they are drawn from and the center of the band."""
    rng = random.Random(seed_for(context.seed, "validate", "networks"))
    count = settings.num_networks
    center = None
    if settings.share is None:
        networks = stratified(candidates, count, rng)
    else:
        center = _center(context, settings, candidates)
        least, most = (round(center * (1 + side * settings.share)) for side in (-1, 1))
        candidates = within(candidates, max(1, least), most)
        networks = banded(candidates, count, rng)
    if len(networks) < count:
        context.console.say(f"Only {len(networks)} networks within {candidates.budget} were found.")
    return networks, candidates, center


def _center(context: Context, settings: ValidateSettings, candidates: BudgetedSpace) -> int:
    if settings.center is not None:
        limit = parse_limit("params", settings.center)
        return round(limit.resolve(candidates.space, candidates.costs))
    searched = context.run.search("main")
    if searched.finished:
        winner = Architecture.from_dict(searched.manifest()["winner"]["architecture"])
        return params(winner.replace(num_classes=candidates.space.num_classes))
    return round(sum(candidates.cost_range("params")) / 2)


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


def _probing(
    context: Context,
    settings: ValidateSettings,
    shared: Supernet,
    store: ImageStore,
    labels: list[list[int]],
    classes: int,
) -> NetworkProbe:
    largest, device = shared.space.largest, context.runtime.device.type
    recipe = ProbeRecipe(
        settings.probe,
        settings.probe_images,
        settings.epochs,
        settings.seeds,
        settings.batch_size or batch_size_for(largest, largest.num_patches, device),
    )
    return NetworkProbe(
        recipe,
        store,
        labels,
        classes=classes,
        test=settings.split,
        seed=context.seed,
        runtime=context.runtime,
    )


def _cost(
    networks: list[Architecture], rated: RatingTable, probing: NetworkProbe | None
) -> dict[str, Any]:
    """Count images, and the products of encoders (and of classifiers in training) over them."""
    images, products = rated.num_encoded, rated.macs
    if probing is not None:
        recipe = probing.recipe
        trained = recipe.probe == "finetune"
        learnt = recipe.epochs * recipe.seeds * probing.num_learnt if trained else 0
        seen = recipe.seeds * probing.num_test if trained else probing.num_seen
        images += len(networks) * (learnt + seen)
        for one in networks:
            products += learnt * cost.training_macs(one, one.num_patches, 0)
            products += seen * cost.encoder_macs(one, one.num_patches)
    return {"images": images, "flops": 2 * products}
