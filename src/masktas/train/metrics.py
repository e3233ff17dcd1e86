"""How good a classifier is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from masktas.data.batches import Batches
from masktas.train.runtime import Runtime

EVALUATION_BATCH = 500


@torch.no_grad()
def accuracy(
    network: nn.Module, batches: Batches, labels: Tensor, runtime: Runtime
) -> dict[str, float]:
    """Classify every image of a split once.

    Args:
        network: images `[B, C, H, W]` to logits `[B, K]`.
        batches: the split.
        labels: `[n]`, the class of each of its images.

    Returns:
        `top1` and `top5`, shares in [0, 1], and `loss`, the mean cross-entropy.
    """
    was_training = network.training
    network.eval()
    ranks, losses = [], []
    for numbers in torch.arange(len(labels)).split(EVALUATION_BATCH):
        images = batches.plain(numbers.numpy())
        with runtime.autocast():
            logits = network(images).float()
        target = labels[numbers].to(logits.device)
        right = logits.gather(1, target[:, None])
        before = torch.arange(logits.shape[1], device=logits.device) < target[:, None]
        ranks.append((~(logits <= right) | ((logits == right) & before)).sum(dim=1))
        losses.append(nn.functional.cross_entropy(logits, target, reduction="none"))
    network.train(was_training)
    rank = torch.cat(ranks)
    return {
        "top1": (rank < 1).double().mean().item(),
        "top5": (rank < 5).double().mean().item(),
        "loss": torch.cat(losses).double().mean().item(),
    }
