"""Evaluate a network without a head: classifiers of its frozen features (SPEC 7).

Shapes: m labelled images, n images asked about, D width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masktas.data.splits import split_by_content
from masktas.errors import LabelError, MasktasError
from masktas.predictor import Predictor
from masktas.ratings.probes import linear_probe, nearest_neighbours
from masktas.stages.common.stage import Context
from masktas.stages.evaluate.images import LabelledImages
from masktas.stages.evaluate.measures import mean_per_class

TEST_SHARE = 0.2  # of images that no one has divided
LEAST = 10  # labelled images
CAVEAT = (
    "Nearest neighbours misrank networks trained on masked images, whose features need a trained "
    "classifier (ViT-B by MAE: 11 % by neighbours, 46 % linear, 81 % fine-tuned): trust "
    "fine-tuning first, then the linear probe."
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Features of labelled images.

    Attributes:
        features: `[n, D]`.
        labels: name of the class of each.
        is_test: whether the source declares it as a test image.
        digests: `[n, 16]`.
        seconds: that the network took.
    """

    features: Tensor
    labels: list[str]
    is_test: list[bool]
    digests: np.ndarray[Any, np.dtype[np.uint8]]
    seconds: float


def encode(
    context: Context, network: Predictor, images: LabelledImages, batch_size: int
) -> Encoded:
    """Encode labelled images.

    Raises:
        MasktasError: if features are not finite.
    """
    features, labels, is_test, digests = [], [], [], []
    seconds = 0.0
    with context.console.bar("embedding", images.total) as bar:
        for batch in images.batches(batch_size):
            began = time.perf_counter()
            with torch.no_grad(), context.runtime.autocast():
                features.append(network.features(batch.pixels))
            if features[-1].is_cuda:  # which has only been told to compute them
                torch.cuda.synchronize(features[-1].device)
            seconds += time.perf_counter() - began
            labels += batch.labels
            is_test += batch.is_test
            digests.append(batch.digests)
            bar.update(len(labels))
    joined = torch.cat(features)
    if not joined.isfinite().all():
        raise MasktasError(
            f"{network.folder}: the network's features are not finite numbers: train it again, "
            "with a lower --lr."
        )
    return Encoded(joined, labels, is_test, np.concatenate(digests), seconds)


def divide(whole: Encoded) -> tuple[Encoded, Encoded]:
    """Divide images into labelled ones and those asked about: declared test images, else a fifth.

    Images are divided by their content, so copies stay together.
    """
    declared = np.array(whole.is_test)
    splits = split_by_content(
        whole.digests,
        declared,
        search_share=0.0,
        validation_share=0.0,
        test_share=TEST_SHARE,
    )
    test = splits == 3
    if test.all() or not test.any():
        raise LabelError(
            f"All {len(test)} images fall into one split, so there are none to learn from, or none "
            "to test on: give training and test images, in folders train/ and test/."
        )
    return _part(whole, np.flatnonzero(~test)), _part(whole, np.flatnonzero(test))


def _part(whole: Encoded, rows: np.ndarray[Any, np.dtype[np.intp]]) -> Encoded:
    return Encoded(
        whole.features[torch.from_numpy(rows)],
        [whole.labels[row] for row in rows],
        [whole.is_test[row] for row in rows],
        whole.digests[rows],
        whole.seconds * len(rows) / len(whole.labels),
    )


def probe(known: Encoded, asked: Encoded, *, seed: int) -> dict[str, Any]:
    """Learn from labelled features and measure on others, by both protocols.

    Raises:
        LabelError: if there are too few labelled images, or all are of one class.
    """
    classes = sorted({*known.labels, *asked.labels})
    number = {name: index for index, name in enumerate(classes)}
    if len(set(known.labels)) < 2 or len(known.labels) < LEAST:
        raise LabelError(
            f"A probe learns from {LEAST} or more labelled images of two or more classes, and "
            f"there are {len(known.labels)} of {len(set(known.labels))}: give more."
        )
    device = known.features.device
    labels = torch.tensor([number[name] for name in known.labels], device=device)
    truth = np.array([number[name] for name in asked.labels])
    neighbours = nearest_neighbours(known.features, labels, asked.features, len(classes))
    linear = linear_probe(
        known.features, labels, asked.features, num_classes=len(classes), seed=seed
    )
    return {
        "num_images": len(truth),
        "num_learnt": len(labels),
        "num_classes": len(classes),
        "linear": {
            **_accuracy(truth, linear.predicted),
            "lr": linear.lr,
            "held_out": {f"{lr:g}": value for lr, value in linear.held_out.items()},
        },
        "knn": _accuracy(truth, neighbours),
        "caveat": CAVEAT,
        "images_per_second": (len(truth) + len(labels)) / (known.seconds + asked.seconds),
    }


def _accuracy(truth: np.ndarray[Any, np.dtype[np.int64]], found: Tensor) -> dict[str, float]:
    predicted = found.cpu().numpy()
    return {
        "top1": float((predicted == truth).mean()),
        "mean_per_class": mean_per_class(truth, predicted),
    }
