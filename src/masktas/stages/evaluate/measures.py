"""How good a classifier is, from what it says about each image. Never imports torch.

Shapes: n images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of the calibration error, of equal width (Guo et al. 2017)
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network says about images.

    Attributes:
        truth: `[n]`, the class of each image.
        predicted: `[n]`, the most probable class.
        confidence: `[n]`, its probability.
        place: `[n]`, number of classes before the true one; 0 if the network is right.
    """

    truth: Numbers
    predicted: Numbers
    confidence: NDArray[np.float64]
    place: Numbers

    @staticmethod
    def joined(parts: Sequence[Answers]) -> Answers:
        """Return the answers about all images."""
        names = Answers.__slots__
        return Answers(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def confusion(truth: Numbers, predicted: Numbers, num_classes: int) -> Numbers:
    """Count images by true class (rows) and predicted class (columns), `[K, K]`."""
    flat = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def per_class(matrix: Numbers, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return support, precision, recall and F1 of each class from a confusion matrix.

    Without images of a class there is no recall or F1, and no precision of one that is never
    predicted: they are None.
    """
    right, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = []
    for number, name in enumerate(classes):
        hits, there, said = int(right[number]), int(support[number]), int(predicted[number])
        rows.append(
            {
                "class": name,
                "support": there,
                "precision": hits / said if said else None,
                "recall": hits / there if there else None,
                "f1": 2 * hits / (there + said) if there else None,
            }
        )
    return rows


def calibration(answers: Answers) -> tuple[float, list[dict[str, Any]]]:
    """Return the expected calibration error and the bins of confidence that it is made of.

    The mean over images of the distance between confidence and accuracy in their bin, 15 bins of
    equal width (Guo et al. 2017, equation 3).
    """
    right = answers.predicted == answers.truth
    which = np.clip(np.ceil(answers.confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins, error = [], 0.0
    for number in range(BINS):
        mine = which == number
        count = int(mine.sum())
        confidence = float(answers.confidence[mine].mean()) if count else None
        accuracy = float(right[mine].mean()) if count else None
        if confidence is not None and accuracy is not None:
            error += count / len(right) * abs(confidence - accuracy)
        bins.append(
            {
                "from": number / BINS,
                "to": (number + 1) / BINS,
                "images": count,
                "confidence": confidence,
                "accuracy": accuracy,
            }
        )
    return error, bins


def measures(answers: Answers, classes: Sequence[str]) -> dict[str, Any]:
    """Return all measures of a classifier as JSON types."""
    matrix = confusion(answers.truth, answers.predicted, len(classes))
    rows = per_class(matrix, classes)
    error, bins = calibration(answers)
    return {
        "num_images": len(answers.truth),
        "top1": float((answers.place < 1).mean()),
        "top5": float((answers.place < 5).mean()),
        "mean_per_class": mean_per_class(answers.truth, answers.predicted),
        "calibration_error": error,
        "calibration_bins": bins,
        "per_class": rows,
        "confusion": matrix.tolist(),
    }


def mean_per_class(truth: Numbers, predicted: Numbers) -> float:
    """Return the mean over the classes that have images of the share of right answers."""
    recalls = [(predicted[truth == one] == one).mean() for one in np.unique(truth)]
    return float(np.mean(recalls))
