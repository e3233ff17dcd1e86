"""Measures of a classifier against scikit-learn and examples made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.metrics import precision_recall_fscore_support as scores

from masktas.stages.evaluate.images import LabelledBatch
from masktas.stages.evaluate.measures import Answers, calibration, confusion, measures, per_class
from masktas.stages.evaluate.mistakes import NUM_MISTAKES, WorstMistakes


def answers(truth: list[int], predicted: list[int], confidence: list[float]) -> Answers:
    place = [0 if a == b else 6 for a, b in zip(truth, predicted, strict=True)]
    return Answers(*map(np.array, (truth, predicted, confidence, place)))


def test_the_table_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, 500)
    predicted = np.where(rng.random(500) < 0.6, truth, rng.integers(0, 6, 500))
    matrix = confusion(truth, predicted, 7)
    assert (matrix == confusion_matrix(truth, predicted)).all()
    rows = per_class(matrix, [f"c{n}" for n in range(7)])
    wanted = scores(truth, predicted, labels=range(7), zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
        assert [row[key] or 0 for row in rows] == pytest.approx(list(values)), key
    found = measures(
        answers(list(truth), list(predicted), [0.5] * 500), [f"c{n}" for n in range(7)]
    )
    assert found["top1"] == pytest.approx((truth == predicted).mean())
    assert found["top5"] == found["top1"]
    assert found["mean_per_class"] == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_classes_without_images_have_no_recall_and_unpredicted_ones_no_precision() -> None:
    rows = per_class(confusion(np.array([0, 0, 1]), np.array([0, 2, 0]), 3), ["a", "b", "c"])
    assert rows == [
        {"class": "a", "support": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5},
        {"class": "b", "support": 1, "precision": None, "recall": 0.0, "f1": 0.0},
        {"class": "c", "support": 0, "precision": 0.0, "recall": None, "f1": None},
    ]


def test_images_of_one_class_are_measured() -> None:
    found = measures(answers([1, 1, 1, 1], [1, 1, 0, 1], [0.9, 0.8, 0.7, 0.6]), ["a", "b"])
    assert found["top1"] == found["mean_per_class"] == 0.75


def test_calibration_error_of_an_example() -> None:
    # two images in the bin of 0.95, one right; two in that of 0.5, both right
    error, bins = calibration(answers([0, 0, 1, 1], [0, 1, 1, 1], [0.95, 0.95, 0.5, 0.5]))
    assert error == pytest.approx(0.5 * abs(0.95 - 0.5) + 0.5 * abs(0.5 - 1.0))
    assert [one["images"] for one in bins if one["images"]] == [2, 2]
    assert len(bins) == 15
    perfect, _ = calibration(answers([0, 1], [0, 1], [1.0, 1.0]))
    assert perfect == 0
    _, bins = calibration(answers([0, 0], [0, 0], [1 / 15, 1e-9]))  # (0, 1/15] is the first
    assert bins[0]["images"] == 2


def test_the_worst_mistakes_are_the_most_confident_wrong_answers_of_all_batches() -> None:
    rng = np.random.default_rng(0)
    worst = WorstMistakes(["a", "b", "c"])
    everything = []
    for number in range(5):
        truth, predicted = rng.integers(0, 3, 20), rng.integers(0, 3, 20)
        some = answers(list(truth), list(predicted), list(rng.random(20)))
        pixels = rng.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
        places = [(number, index) for index in range(20)]
        batch = LabelledBatch(
            pixels, ["x"] * 20, places, [False] * 20, np.zeros((20, 16), np.uint8)
        )
        worst.add(batch, some)
        wrong = [row for row in range(20) if truth[row] != predicted[row]]
        everything += [(some.confidence[row], places[row], pixels[row]) for row in wrong]
    wanted = sorted(everything, key=lambda one: -one[0])[:NUM_MISTAKES]
    assert [one.place for one in worst.found] == [place for _, place, _ in wanted]
    assert all((one.pixels == w[2]).all() for one, w in zip(worst.found, wanted, strict=True))
