"""The files of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from masktas.errors import ConfigError
from masktas.files import write_json, write_text
from masktas.formats import csv_text
from masktas.predictor import Predictor
from masktas.stages.evaluate import pictures
from masktas.stages.evaluate.images import LabelledImages
from masktas.stages.evaluate.manifest import EVALUATION
from masktas.stages.evaluate.mistakes import Mistake


def write_results(
    folder: Path,
    network: Predictor,
    found: dict[str, Any],
    worst: list[Mistake],
    images: LabelledImages,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Write the results, and return those that the manifest repeats."""
    if not network.knows_classes:
        write_json(folder / EVALUATION, found)
        return found
    classes = network.classes
    listed = [one.to_dict(images) for one in worst]
    write_json(folder / EVALUATION, found | {"classes": classes, "mistakes": listed})
    rows = found["per_class"]
    write_text(folder / "per_class.csv", csv_text(rows[0], (row.values() for row in rows)))
    counts = zip(classes, found["confusion"], strict=True)
    write_text(
        folder / "confusion.csv",
        csv_text(["true \\ predicted", *classes], ([one, *row] for one, row in counts)),
    )
    try:
        pictures.draw_confusion(folder / "confusion.png", np.array(found["confusion"]), classes)
        pictures.draw_mistakes(folder / "mistakes.png", worst)
    except ConfigError as error:
        warn(f"{error} confusion.png and mistakes.png were not drawn.")
    left_out = ("per_class", "confusion", "calibration_bins")
    return {key: value for key, value in found.items() if key not in left_out}
