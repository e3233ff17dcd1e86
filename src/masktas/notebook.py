"""Pieces of a finished run, to rate single architectures in a notebook."""

from __future__ import annotations

from pathlib import Path

from masktas.artifacts import Run
from masktas.config import RatingSettings, RuntimeSettings
from masktas.console import Console
from masktas.data.store.image_store import ImageStore
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import Ask
from masktas.nn.teachers.teacher import Teacher
from masktas.ratings.evaluator import Evaluator
from masktas.space import Architecture, Budget, BudgetedSpace
from masktas.stages.common import load
from masktas.stages.common.images import Data
from masktas.stages.common.stage import Context
from masktas.strategies.racing import full
from masktas.strategies.strategy import Score
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime


def load_supernet(run: str | Path) -> Supernet:
    """Return the trained supernet of a run folder; `supernet.space` is its search space.

    Raises:
        ArtifactError: if it is not finished or damaged.
    """
    return load.load_supernet(Run(Path(run)))


def open_images(run: str | Path, data: Data | None = None) -> ImageStore:
    """Return the images that a run holds out for its search.

    Args:
        run: the run folder, with a finished `supernet/`.
        data: other images, or the Python data set that the run was made from.

    Raises:
        ArtifactError, DataError: if the run or its images are missing.
    """
    context = Context(run, RuntimeSettings(device="cpu", precision="fp32"), None)
    images = context.images_recorded(context.run.division, data, None)
    return context.open_images(images, allowed=("search",))


def open_teacher(
    run: str | Path, images: ImageStore, *, device: str = "auto", function: Ask | None = None
) -> Teacher:
    """Return the frozen teacher of a run, for images normalised as its supernet sees them.

    Args:
        run: the run folder, with a finished `supernet/`.
        images: from `open_images`.
        device: auto, cpu, cuda or cuda:N.
        function: the teacher, if it is a Python function.

    Raises:
        ArtifactError: if it is missing or damaged.
    """
    folder = Run(Path(run))
    supernet = load.load_supernet(folder)
    seen = load.student_input(supernet.space, supernet.units, images)
    return load.load_teacher(folder, seen, Runtime.choose(device, "fp32").device, function)


def rate(
    architecture: Architecture,
    *,
    supernet: Supernet,
    teacher: Teacher,
    images: ImageStore,
    settings: RatingSettings | None = None,
    runtime: RuntimeSettings | None = None,
) -> Score:
    """Rate an architecture of a supernet without labels, as a search does (SPEC 4).

    Args:
        architecture: a network of `supernet.space`.
        supernet: from `load_supernet`.
        teacher: from `open_teacher`, on the device of `runtime`.
        images: from `open_images`.
        settings: which rating, and on how many images.
        runtime: seed, device and precision; those of the search give its numbers.

    Returns:
        The score, with `rating` and its standard error `error` over the images.

    Raises:
        SpaceError: if the architecture is not one of the supernet.
        ConfigError: if settings do not go together, or the rating needs labels.
    """
    supernet.space.require(architecture)
    chosen = runtime or RuntimeSettings()
    evaluator = Evaluator(
        supernet,
        teacher,
        images,
        settings or RatingSettings(),
        BudgetedSpace(supernet.space, Budget()),
        ranks=ALONE,
        runtime=Runtime.choose(chosen.device, chosen.precision),
        seed=chosen.seed,
        say=Console().warn,
        raced=False,
    )
    return full(evaluator.rate([architecture])[0])
