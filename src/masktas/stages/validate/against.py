"""The supernet of another run, which rates the same networks on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.artifacts import SPACE, Run
from masktas.config import ValidateSettings
from masktas.data.store.image_store import ImageStore
from masktas.errors import DataError, SpaceError
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.function import Ask
from masktas.ratings.evaluator import Evaluator
from masktas.space import BudgetedSpace, SearchSpace
from masktas.stages.common.load import (
    adopted_facts,
    load_supernet,
    load_teacher,
    student_input,
    teacher_file,
)
from masktas.stages.common.stage import Context
from masktas.stages.validate.ratings import rating_passes
from masktas.train.networks import WEIGHTS


@dataclass(frozen=True, slots=True)
class OtherSupernet:
    """Another run's supernet and what rates by it.

    Attributes:
        run: the other run.
        supernet: with the same subnets.
        passes: see `rating_passes`; ratings without labels only.
    """

    run: Run
    supernet: Supernet
    passes: list[tuple[Evaluator, str]]

    @property
    def parents(self) -> dict[str, Path]:
        """The files that its ratings depend on, by name."""
        return {
            "against teacher": teacher_file(self.run),
            "against supernet": self.run.supernet.folder / WEIGHTS,
        }


def open_other(
    context: Context,
    settings: ValidateSettings,
    in_band: BudgetedSpace,
    store: ImageStore,
    ask: Ask | None,
) -> OtherSupernet | None:
    """Open the supernet of `--against`; None if there is none.

    Args:
        context: of the stage.
        settings: of the validation.
        in_band: the space that the networks are drawn from.
        store: the images, opened.
        ask: the function that taught the supernets, if they were taught by one.

    Raises:
        SpaceError: if it is a supernet of another space.
        DataError: if it was trained on other images.
    """
    if settings.against is None:
        return None
    other, space = Run(Path(settings.against)), in_band.space
    its = other.supernet.manifest()["images"]
    trained = SearchSpace.load(other.supernet.folder / SPACE)
    if trained.replace(name="", num_classes=None) != space.replace(name="", num_classes=None):
        raise SpaceError(
            f"--against {settings.against}: its supernet is of space {trained.name} with other "
            f"choices than {space.name} has here: choose a run with the same space."
        )
    if _identity(its) != _identity(context.run.supernet.manifest()["images"]):
        raise DataError(
            f"--against {settings.against}: its supernet was trained on other images than that of "
            f"{context.run.folder}, or on another part of them: choose a run with the same images."
        )
    other.supernet.require_fresh()
    supernet = load_supernet(other, space)
    facts = adopted_facts(other)
    is_function = facts is not None and facts["kind"] == "function"
    seen = student_input(space, supernet.units, store)
    teacher = load_teacher(other, seen, context.runtime.device, ask if is_function else None)
    unlabelled = settings.model_copy(update={"variants": False, "rating": "consistency"})
    passes = rating_passes(context, supernet, teacher, store, unlabelled, in_band, None)
    return OtherSupernet(other, supernet, passes)


def _identity(images: dict[str, Any]) -> list[Any]:
    """Return what two supernets must have in common: the splits, and the normalisation."""
    return [images[key] for key in ("splits", "mean", "std")]
