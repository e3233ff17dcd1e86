"""The most confident mistakes of a classifier, kept while images are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.stages.evaluate.images import LabelledBatch, LabelledImages, Place
from masktas.stages.evaluate.measures import Answers

NUM_MISTAKES = 24


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that a network is wrong about.

    Attributes:
        place: of the image in its source.
        pixels: `[H, W, C]`.
        truth, predicted: classes.
        confidence: probability of the predicted class.
    """

    place: Place
    pixels: NDArray[np.uint8]
    truth: str
    predicted: str
    confidence: float

    def to_dict(self, images: LabelledImages) -> dict[str, Any]:
        """Return it as JSON types, with the name of the image."""
        return {
            "name": images.name(self.place),
            "true": self.truth,
            "predicted": self.predicted,
            "confidence": self.confidence,
        }


class WorstMistakes:
    """The 24 most confident mistakes so far, the worst first.

    Args:
        classes: names of the classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self.found: list[Mistake] = []

    def add(self, batch: LabelledBatch, answers: Answers) -> None:
        """Look at a batch, whose images are those of the answers."""
        wrong = np.flatnonzero(answers.predicted != answers.truth)
        worst = wrong[np.argsort(-answers.confidence[wrong], kind="stable")][:NUM_MISTAKES]
        mistakes = [
            Mistake(
                batch.places[row],
                batch.pixels[row].copy(),
                self._classes[int(answers.truth[row])],
                self._classes[int(answers.predicted[row])],
                float(answers.confidence[row]),
            )
            for row in worst.tolist()
        ]
        merged = sorted([*self.found, *mistakes], key=lambda one: -one.confidence)
        self.found = merged[:NUM_MISTAKES]
