"""supernet + labels -> validate/NAME/: does the rating without labels rank as accuracy does?

A number of networks are probed with labels and compared with their ratings (SPEC 4). Overall most
of a rating's rank correlation is size; what counts is the order inside a budget.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from masktas import agreement
from masktas.agreement import Reliability
from masktas.artifacts import write_json
from masktas.config import DataSettings, RuntimeSettings, Settings
from masktas.config.settings import Count, Quantity, Ratio
from masktas.console import Console
from masktas.data.sources import Source
from masktas.data.store import ImageStore
from masktas.errors import ConfigError, LabelError, MasktasError
from masktas.nn.distill import Teacher
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import Ask
from masktas.nn.view import Sight
from masktas.seeding import seed_for
from masktas.space import (
    Architecture,
    Budget,
    BudgetedSpace,
    cost,
    format_quantity,
    macs,
    params,
    parse_quantity,
)
from masktas.stages import findings
from masktas.stages.choosing import banded, stratified, within
from masktas.stages.context import Context, Data, visible_patches
from masktas.stages.inputs import load_supernet, load_teacher, teacher_file
from masktas.stages.labels import read_labels
from masktas.stages.probed import probe
from masktas.stages.probing import Probing, Recipe
from masktas.stages.raters import DistilledRatings, Raters, Ratings
from masktas.train.networks import WEIGHTS
from masktas.train.tasks.masked import training_macs

NETWORKS = "networks.jsonl"
LEAD = "consistency"  # the rating that the verdict is about, where it is among them
NO_LABELS = "These images have no labels, so accuracy is not known and only how reliable each "
NO_LABELS += "rating is can be told: give DATA with labels (a folder for each class, or a column "
NO_LABELS += "`label`), and another --name or --overwrite."

Floats = NDArray[np.float64]


def _band(value: object) -> str:
    """Read a share: 5%, 5 % or 0.05."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError("give a share such as 5% or 0.05")
    return f"{100 * share:.10g}%"


class ValidateSettings(Settings):
    """Networks, ratings and probes that are compared (SPEC 4)."""

    num_networks: Count = Field(30, description="Networks that are compared.")
    band: Annotated[str, BeforeValidator(_band)] | None = Field(
        None,
        description="Compare networks within this share of --center parameters: 5%; if unset, of "
        "all sizes evenly.",
    )
    center: Quantity | None = Field(
        None,
        description="Parameters in the middle of the band; if unset those of search/main's winner, "
        "or the middle of what is feasible.",
    )
    max_params: Quantity | None = Field(None, description="At most this many parameters: 6M.")
    min_params: Quantity | None = Field(None, description="At least this many parameters.")
    probe: Literal["linear", "knn", "finetune"] = Field(
        "linear",
        description="What stands for accuracy: a linear classifier or the 20 nearest neighbours of "
        "frozen features, or fine-tuning for --epochs.",
    )
    probe_images: Count = Field(5000, description="Labelled images that a probe learns from.")
    epochs: Count = Field(2, description="Passes over them, of fine-tuning.")
    split: Literal["validation", "test"] = Field(
        "validation", description="Whose images accuracy is measured on."
    )
    seeds: Annotated[int, Field(gt=0, le=100)] = Field(
        2, description="Probes of each network, with other images in another order."
    )
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = Field(
        2000, description="Resamples that intervals are made from."
    )
    num_images: Count = Field(2000, description="Search images that every network is rated on.")
    mask_ratio: Ratio = Field(0.9, description="Share r of the patches that is hidden.")
    batch_size: Count = Field(500, description="Images encoded at once; changes speed and memory.")


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
    teacher: Ask | None = None,
) -> dict[str, Any]:
    """Compare ratings without labels with accuracy, over networks of a supernet.

    Without labels it tells how reliable each rating is, and no more.

    Args:
        data: labelled images; those of the supernet if None.
        out: the run folder, with a finished `supernet/`; `validate/NAME/` is written in it.
        name: of this comparison; one run can hold many.
        settings: see `ValidateSettings`.
        data_settings, runtime: see `masktas.config`.
        console: where progress, table and verdict are shown.
        overwrite: start afresh.
        teacher: the function that the supernet has learnt from, where it was one.

    Returns:
        The manifest, with `verdict`, `agreement` by rating, `reliability` and `ceiling`.

    Raises:
        MasktasError: with one sentence for the user.
    """
    context = Context(out, runtime, console, overwrite=overwrite)
    settings = settings or ValidateSettings()
    images = context.images_recorded(context.run.supernet, data, data_settings)
    shared = load_supernet(context.run)
    largest = shared.space.largest
    images.require_fit(largest, f"space {shared.space.name}")
    networks, center = _networks(context, settings, shared)
    visible = _visible(settings, shared)
    labels, classes = _labels(images.source())
    stage = context.run.validated(name)
    parents = {
        "teacher": teacher_file(context.run),
        "supernet": context.run.supernet.folder / WEIGHTS,
    }
    splits = ("supernet", "search", settings.split) if labels else ("search",)
    store = context.open_images(images, allowed=splits)
    sight = Sight.of(largest, store.mean, store.std)
    frozen = load_teacher(context.run, sight, context.runtime.device, teacher)
    probing = _probing(context, settings, store, labels, classes) if labels else None
    if not context.begin(
        stage,
        settings,
        parents=parents,
        images=images.to_dict(),
        center=center,
        labelled=probing is not None,
    ):
        return stage.manifest()
    if probing is None:
        context.console.warn(NO_LABELS)
    shared.to(context.runtime.device)
    raters = _raters(context, settings, shared, frozen, store)
    ratings = _rate(raters, networks)
    journal = stage.folder / NETWORKS
    correct = probe(context, probing, shared, networks, journal) if probing else None
    found = Found(networks, ratings, correct)
    took = _cost(found, frozen, visible, raters.num_images, probing)

    def results() -> dict[str, Any]:
        told = _tell(context, found, settings, stage.folder)
        return context.finish(
            stage,
            store,
            took,
            parents,
            space=shared.space.to_dict(),
            center=center,
            num_networks=len(networks),
            probe=settings.probe if probing else None,
            test_split_read=probing is not None and settings.split == "test",
            **told,
        )

    return context.ranks.first(results)


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured.

    Attributes:
        networks: n architectures.
        ratings: `[n, m]` by name, over search images.
        correct: `[S, n, t]`, what was classified right with which seed; None without labels.
    """

    networks: list[Architecture]
    ratings: Ratings
    correct: Floats | None

    @property
    def params(self) -> Floats:
        """Of each network."""
        return np.array([params(one) for one in self.networks], dtype=np.float64)

    @property
    def scores(self) -> Ratings:
        """Every rating over all images, and those that know only size: `[n]`."""
        return {name: values.mean(axis=1) for name, values in self.ratings.items()} | {
            "params": self.params,
            "macs": np.array([macs(one) for one in self.networks], dtype=np.float64),
        }

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return what is known of each network."""
        num_images = {name: values.shape[1] for name, values in self.ratings.items()}
        deviations = {name: values.std(axis=1) for name, values in self.ratings.items()}
        told = []
        for at, one in enumerate(self.networks):
            accuracy = None if self.correct is None else self.correct[:, at].mean(axis=1).tolist()
            told.append(
                {
                    "index": at,
                    "params": params(one),
                    "macs": macs(one),
                    "accuracy": accuracy,
                    "ratings": {name: float(values[at]) for name, values in self.scores.items()},
                    "standard_errors": {
                        name: float(values[at]) / num_images[name] ** 0.5
                        for name, values in deviations.items()
                    },
                    "architecture": one.to_dict(),
                }
            )
        return told


def _networks(
    context: Context, settings: ValidateSettings, shared: Supernet
) -> tuple[list[Architecture], int | None]:
    """Choose the networks; return the middle of the band too, if there is one."""
    limits = {
        name: None if text is None else parse_quantity(text)
        for name in ("min_params", "max_params")
        for text in [getattr(settings, name)]
    }
    candidates = BudgetedSpace(shared.space, Budget(**limits))
    rng = random.Random(seed_for(context.seed, "validate", "networks"))
    count = settings.num_networks
    center = None
    if settings.band is None:
        if settings.center is not None:
            raise ConfigError("center is the middle of a band: give --band 5% as well.")
        networks = stratified(candidates, count, rng)
    else:
        center = _center(context, settings, candidates)
        share = float(settings.band.removesuffix("%")) / 100
        candidates = within(
            candidates, max(1, round(center * (1 - share))), round(center * (1 + share))
        )
        networks = banded(candidates, count, rng)
    if len(networks) < count:
        context.console.say(f"Only {len(networks)} networks within {candidates.budget} were found.")
    return networks, center


def _center(context: Context, settings: ValidateSettings, candidates: BudgetedSpace) -> int:
    if settings.center is not None:
        return parse_quantity(settings.center)
    searched = context.run.search("main")
    if searched.finished:
        winner = Architecture.from_dict(searched.manifest()["winner"]["architecture"])
        return params(winner.replace(num_classes=candidates.space.num_classes))
    return sum(candidates.cost_range("params")) // 2


def _labels(source: Source) -> tuple[list[list[int]] | None, int]:
    """Return the labels, as `read_labels`, and the number of classes; None if there are none."""
    try:
        labels, classes = read_labels(source)
    except LabelError:
        return None, 0
    return (labels, len(classes)) if len(classes) > 1 else (None, 0)


def _probing(
    context: Context,
    settings: ValidateSettings,
    store: ImageStore,
    labels: list[list[int]],
    classes: int,
) -> Probing:
    return Probing(
        Recipe(
            settings.probe,
            settings.probe_images,
            settings.epochs,
            settings.seeds,
            settings.batch_size,
        ),
        store,
        labels,
        classes=classes,
        test=settings.split,
        seed=context.seed,
        runtime=context.runtime,
    )


def _visible(settings: ValidateSettings, shared: Supernet) -> int:
    """Return the patches of an image that are seen: a patch is compared with two others."""
    return visible_patches(shared.space.largest, settings.mask_ratio, least=3)


def _raters(
    context: Context,
    settings: ValidateSettings,
    shared: Supernet,
    teacher: Teacher,
    store: ImageStore,
) -> Raters:
    return DistilledRatings(
        shared,
        teacher,
        context.batches(store, "search"),
        num_images=settings.num_images,
        visible=_visible(settings, shared),
        batch_size=settings.batch_size,
        setup=context.setup,
    )


def _rate(raters: Raters, networks: list[Architecture]) -> Ratings:
    ratings = raters.rate_all(networks)
    for name, values in ratings.items():
        if not np.isfinite(values).all():
            raise MasktasError(
                f"The rating {name} is not a finite number: train the supernet again if its losses "
                "are not finite either."
            )
    return ratings


def _tell(
    context: Context, found: Found, settings: ValidateSettings, folder: Path
) -> dict[str, Any]:
    """Compare, print, draw and write everything; return what the manifest holds of it."""
    seed = seed_for(context.seed, "validate", "statistics")
    counts = agreement.resamples(len(found.networks), settings.bootstrap, seed)
    reliabilities = {
        name: agreement.split_half(values, counts, seed=seed)
        for name, values in found.ratings.items()
    }
    told = _compared(context, found, reliabilities, counts, seed, folder)
    networks = found.to_dicts()
    write_json(folder / "validation.json", {**told, "networks": networks})
    flat = {
        **{key: [one[key] for one in networks] for key in ("index", "params", "macs")},
        **_accuracies(found.correct),
        **{name: values.mean(axis=1).tolist() for name, values in found.ratings.items()},
    }
    findings.write_csv(folder / "validation.csv", flat)
    return told


def _compared(
    context: Context,
    found: Found,
    reliabilities: dict[str, Reliability],
    counts: Floats,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Print the table, draw the picture and return verdict and statistics as JSON types."""
    told = {"reliability": {name: one.to_dict() for name, one in reliabilities.items()}}
    title = f"{len(found.networks)} networks of {format_quantity(min(found.params))} to "
    title += f"{format_quantity(max(found.params))} parameters"
    if found.correct is None:
        rows = findings.table_unlabelled(reliabilities)
        context.console.table(title, findings.HEADER_UNLABELLED, rows)
        verdict = findings.verdict_unlabelled(reliabilities)
        return {"verdict": verdict, "agreement": None, "ceiling": None, **told}
    accuracy = found.correct.mean(axis=2)
    agreements = agreement.compare(
        found.scores, accuracy.mean(axis=0), found.params, counts, of_size=findings.OF_SIZE
    )
    ceiling = agreement.ceiling(found.correct, counts, seed=seed)
    rows = findings.table(agreements, reliabilities, ceiling)
    context.console.table(f"{title}, accuracy {_range(accuracy)}", findings.HEADER, rows)
    lead = LEAD if LEAD in found.ratings else next(iter(found.ratings))
    findings.write_scatter(folder, found.scores, accuracy, found.params, agreements)
    return {
        "verdict": findings.verdict(agreements, lead=lead, num_networks=len(found.networks)),
        "agreement": {name: one.to_dict() for name, one in agreements.items()},
        "ceiling": ceiling.to_dict(),
        **told,
    }


def _range(accuracy: Floats) -> str:
    mean = accuracy.mean(axis=0)
    return f"{mean.min():.1%} to {mean.max():.1%}"


def _accuracies(correct: Floats | None) -> dict[str, list[float]]:
    if correct is None:
        return {}
    by_seed = {f"accuracy_{at}": one.mean(axis=1).tolist() for at, one in enumerate(correct)}
    return {"accuracy": correct.mean(axis=(0, 2)).tolist(), **by_seed}


def _cost(
    found: Found, teacher: Teacher, visible: int, rated: int, probing: Probing | None
) -> dict[str, Any]:
    """Count images, and the products of encoders (and of classifiers in training) over them."""
    networks = found.networks
    products = teacher.macs(visible) + sum(cost.encoder_macs(one, visible) for one in networks)
    images, products = len(networks) * rated, products * rated
    if probing is not None:
        recipe = probing.recipe
        trained = recipe.probe == "finetune"
        learnt = recipe.epochs * recipe.seeds * probing.num_learnt if trained else 0
        seen = recipe.seeds * probing.num_test if trained else probing.num_seen
        images += len(networks) * (learnt + seen)
        for one in networks:
            products += learnt * training_macs(one, one.num_patches, 0)
            products += seen * cost.encoder_macs(one, one.num_patches)
    return {"images": images, "flops": 2 * products}
