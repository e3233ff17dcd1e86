"""Accuracy and loss of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from masktas.data.batches import Batches
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime

EVALUATION_BATCH = 500


@torch.no_grad()
def accuracy(
    network: nn.Module, batches: Batches, labels: Tensor, runtime: Runtime, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Classify every image of a split once.

    Args:
        network: images `[B, C, H, W]` to logits `[B, K]`.
        batches: the split.
        labels: `[n]`, the class of each of its images.
        runtime: device and precision.
        ranks: the processes that share the images.

    Returns:
        `top1` and `top5`, shares in [0, 1]; `mean_per_class`, the mean of the top-1 of each class
        that has images; and `loss`, the mean cross-entropy.
    """
    was_training = network.training
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=runtime.device)  # top1, top5, loss
    support = labels.bincount()
    right = torch.zeros(len(support), dtype=torch.float64, device=runtime.device)  # of each class
    for numbers in ranks.mine(torch.arange(len(labels)).split(EVALUATION_BATCH)):
        images = batches.plain(numbers.numpy())
        with runtime.autocast():
            logits = network(images).float()
        target = labels[numbers].to(logits.device)
        place = places(logits, target)
        loss = nn.functional.cross_entropy(logits, target, reduction="none")
        sums += torch.stack([(place < 1).sum(), (place < 5).sum(), loss.double().sum()])
        right.index_add_(0, target, (place < 1).double())
    network.train(was_training)
    top1, top5, loss = (ranks.sum(sums) / len(labels)).tolist()
    per_class = ranks.sum(right).cpu()[support > 0] / support[support > 0]
    mean = float(per_class.mean())
    return {"top1": top1, "top5": top5, "mean_per_class": mean, "loss": loss}


def places(logits: Tensor, target: Tensor) -> Tensor:
    """Return how many classes come before the true one of each image, `[B]`.

    Equal logits come in the order of the classes, and one that is not a number comes first.

    Args:
        logits: `[B, K]`.
        target: `[B]`, the true classes.
    """
    right = logits.gather(1, target[:, None])
    before = torch.arange(logits.shape[1], device=logits.device) < target[:, None]
    return (~(logits <= right) | ((logits == right) & before)).sum(dim=1)
