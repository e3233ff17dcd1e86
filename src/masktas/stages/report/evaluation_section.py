"""The section of the report about the evaluations of a run's networks."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masktas.artifacts import Run, Stage, read_json
from masktas.errors import ArtifactError
from masktas.formats import shown
from masktas.stages.evaluate.manifest import EVALUATION, EvaluationManifest

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HEADER = ("class", "images", "precision", "recall", "F1")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the template shows of one evaluation.

    Attributes:
        name: of the evaluation.
        manifest: of the evaluation.
        header, cells: the table of the classes; no cells for a network without labels.
        confusion, mistakes: pictures as data addresses; None if they were not drawn.
        num_mistakes: images on the picture of mistakes.
        unknown: classes of the images that the network does not know, with their images.
    """

    name: str
    manifest: EvaluationManifest
    header: tuple[str, ...]
    cells: list[list[str]]
    confusion: str | None
    mistakes: str | None
    num_mistakes: int
    unknown: dict[str, int]

    @classmethod
    def of(cls, stage: Stage) -> Evaluation:
        """Read a finished evaluation.

        Raises:
            ArtifactError: if a file of it is damaged.
        """
        manifest, path = EvaluationManifest.read(stage), stage.folder / EVALUATION
        found = read_json(path)
        try:
            rows = found.get("per_class", [])
            return cls(
                stage.folder.name,
                manifest,
                HEADER,
                [_cells(row) for row in rows],
                _picture(stage.folder / "confusion.png"),
                _picture(stage.folder / "mistakes.png"),
                len(found.get("mistakes", ())),
                dict(found.get("unknown_classes", {})),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path}: damaged ({error}). Evaluate again with --overwrite."
            ) from None


def evaluation_section(run: Run, environment: Environment) -> Markup | None:
    """Render the evaluations of a run; None if there are none.

    Args:
        run: the run.
        environment: of the report's templates.
    """
    from markupsafe import Markup

    evaluations = [Evaluation.of(stage) for stage in run.named("evaluate")]
    if not evaluations:
        return None
    path = resources.files("masktas.stages.report").joinpath("evaluation.html")
    template = environment.from_string(path.read_text("utf-8"))
    return Markup(template.render(evaluations=evaluations))


def _cells(row: dict[str, Any]) -> list[str]:
    shares = [row[key] for key in ("precision", "recall", "f1")]
    return [
        shown(row["class"]),
        f"{row['support']:,}",
        *("–" if share is None else f"{100 * share:.1f}" for share in shares),
    ]


def _picture(path: Path) -> str | None:
    """Return a picture as a data address, so that the page is one file."""
    if not path.exists():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
