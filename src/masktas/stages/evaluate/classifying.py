"""Evaluate a network with a head: what it says about every labelled image."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from masktas.data.sources.base import class_id
from masktas.errors import DataError
from masktas.predictor import Predictor
from masktas.stages.common.stage import Context
from masktas.stages.evaluate.images import LabelledBatch, LabelledImages
from masktas.stages.evaluate.measures import Answers, measures
from masktas.stages.evaluate.mistakes import Mistake, WorstMistakes
from masktas.train.metrics import places

MAX_NAMED = 5  # classes that a sentence names


def classify(
    context: Context, network: Predictor, images: LabelledImages, batch_size: int
) -> tuple[dict[str, Any], list[Mistake]]:
    """Classify labelled images and measure how good the network is.

    Classes are matched by name, those of ImageNet by their WordNet ids; images of a class that the
    network does not know are left out.

    Returns:
        The measures, and the worst mistakes.

    Raises:
        DataError: if the network knows none of the classes.
    """
    number = {class_id(name): index for index, name in enumerate(network.classes)}
    worst, parts = WorstMistakes(network.classes), []
    unknown: dict[str, int] = {}
    seconds, done = 0.0, 0
    with context.console.bar("evaluating", images.total) as bar:
        for batch in images.batches(batch_size):
            names = [class_id(name) for name in batch.labels]
            known = [row for row, name in enumerate(names) if name in number]
            for name in names:
                if name not in number:
                    unknown[name] = unknown.get(name, 0) + 1
            began = time.perf_counter()
            if known:
                chosen = _rows(batch, known)
                truth = torch.tensor([number[class_id(name)] for name in chosen.labels])
                parts.append(_answers(context, network, chosen, truth))
                worst.add(chosen, parts[-1])
            seconds += time.perf_counter() - began
            done += len(batch.labels)
            bar.update(done)
    if not parts:
        raise DataError(
            f"{images.location}: the network knows none of its classes "
            f"({_listed(sorted(unknown))}): give images with labels of the names that it knows "
            f"({_listed(list(network.classes))})."
        )
    answers = Answers.joined(parts)
    found = measures(answers, network.classes)
    _say_of_classes(context.console.warn, found, unknown)
    speed = {"images_per_second": len(answers.truth) / seconds}
    return found | {"unknown_classes": unknown} | speed, worst.found


def _rows(batch: LabelledBatch, rows: list[int]) -> LabelledBatch:
    if len(rows) == len(batch.labels):
        return batch
    return LabelledBatch(
        batch.pixels[rows],
        [batch.labels[row] for row in rows],
        [batch.places[row] for row in rows],
        [batch.is_test[row] for row in rows],
        batch.digests[rows],
    )


@torch.no_grad()
def _answers(context: Context, network: Predictor, batch: LabelledBatch, truth: Tensor) -> Answers:
    with context.runtime.autocast():
        logits = network.logits(batch.pixels)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return Answers(
        truth.numpy(),
        predicted.cpu().numpy(),
        confidence.double().cpu().numpy(),
        places(logits, truth.to(logits.device)).cpu().numpy(),
    )


def _say_of_classes(
    warn: Callable[[str], None], found: dict[str, Any], unknown: dict[str, int]
) -> None:
    """Say in a sentence each which classes the network does not know, or have no images."""
    if unknown:
        warn(
            f"{sum(unknown.values()):,} images were left out: the network does not know their "
            f"classes ({_listed(sorted(unknown))})."
        )
    missing = [row["class"] for row in found["per_class"] if not row["support"]]
    if missing:
        warn(
            f"There are no images of some classes that the network knows ({_listed(missing)}): "
            "means over classes are of the others."
        )


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
