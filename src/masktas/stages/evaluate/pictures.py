"""Pictures of an evaluation: the confusion matrix, and the worst mistakes on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from masktas.errors import require_extra
from masktas.files import write_atomic
from masktas.formats import shown
from masktas.stages.evaluate.measures import Numbers
from masktas.stages.evaluate.mistakes import Mistake

COLUMNS = 6
CELL = (1.34, 1.1)  # height and width of a mistake, whose picture is 1 high or wide
MARGIN = 0.05
MANY = 40  # classes above which their names are left out
FEW = 15  # classes up to which counts are written into the cells
LONGEST = 18  # characters of a class name


def pictures_package() -> ModuleType:
    """Import matplotlib's figures; a ConfigError says how to install it."""
    return require_extra("matplotlib.figure", "report", "Drawing an evaluation")


def draw_confusion(
    path: Path, matrix: Numbers, classes: Sequence[str], *, counted: str = "images"
) -> None:
    """Draw a confusion matrix as shares of each true class; `counted` is what the matrix counts."""
    support = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(support, 1)
    side = float(np.clip(0.34 * len(classes) + 2, 4, 12))
    figure = pictures_package().Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(
        image, ax=axes, fraction=0.046, label=f"share of the {counted} of the true class"
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(classes) <= MANY:
        names = [_short(name) for name in classes]
        places = range(len(classes))
        axes.set_xticks(places, names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(places, names, fontsize=8, parse_math=False)
    if len(classes) <= FEW and counted == "images":  # numbers of pixels are too long
        for (row, column), count in np.ndenumerate(matrix):
            color = "white" if shares[row, column] > 0.5 else "#1d2733"
            axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=7)
    _save(figure, path)


def draw_mistakes(path: Path, mistakes: Sequence[Mistake]) -> None:
    """Draw the worst mistakes in rows, with their true and predicted classes above each."""
    rows = max(1, -(-len(mistakes) // COLUMNS))
    figure = pictures_package().Figure(figsize=(1.75 * COLUMNS, 2.2 * rows))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for number, one in enumerate(mistakes):
        down, across = divmod(number, COLUMNS)
        top, left = down * CELL[0] + CELL[0] - 1, across * CELL[1] + MARGIN
        height, width = one.pixels.shape[:2]
        high, wide = height / max(height, width), width / max(height, width)
        place = (left, left + wide, top + high, top)
        axes.imshow(_visible(one.pixels), cmap="gray", vmin=0, vmax=255, extent=place)
        title = f"{_short(one.truth)}\nsaid {_short(one.predicted)}, {one.confidence:.0%}"
        axes.text(left, top - MARGIN, title, fontsize=8, va="bottom", parse_math=False)
    if not mistakes:
        axes.text(0.1, 0.5, "no mistakes", fontsize=10)
    axes.set_xlim(0, COLUMNS * CELL[1])
    axes.set_ylim(rows * CELL[0] + MARGIN, 0)
    axes.set_aspect("equal")
    _save(figure, path)


def _visible(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return pixels that can be drawn: grey or colour; of other images the first channel."""
    return pixels if pixels.shape[2] in (3, 4) else pixels[:, :, 0]


def _short(name: str) -> str:
    name = shown(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _save(figure: Any, path: Path) -> None:
    """Write a PNG without the time and version that matplotlib would put into it."""

    def write(temporary: Path) -> None:
        figure.savefig(
            temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None}
        )

    write_atomic(path, write)
