"""Classifiers of frozen features: the nearest neighbours, and a linear one trained by SGD.

Shapes: m labelled images, n images asked about, D width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.seeding import seed_for

NEIGHBOURS = 20  # "20 usually best" (Caron et al. 2021, DINO)
SHARPNESS = 0.07  # how much more the nearest neighbours count (Wu et al. 2018, InstDisc)
CHUNK_SIZE = 2048  # images whose similarity to all is computed at once
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # learning rates for a batch of 256
EPOCHS = 100
BATCH_SIZE = 256
HELD_OUT = 0.1  # share of the labelled images that the learning rate is chosen on


def vote(similarity: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the class that the nearest neighbours vote for, with weights `exp(s / 0.07)`.

    Args:
        similarity: `[n, m]`, cosine of each image with each labelled one.
        labels: `[m]`, their classes.
        num_classes: K.

    Returns:
        `[n]`.
    """
    near, which = similarity.topk(min(NEIGHBOURS, similarity.shape[1]), dim=1)
    votes = near.new_zeros(len(similarity), num_classes)
    # the softmax divides the weights of an image by one number, which changes no vote
    votes.scatter_add_(1, labels[which], (near / SHARPNESS).softmax(dim=1))
    return votes.argmax(dim=1)


def nearest_neighbours(known: Tensor, labels: Tensor, asked: Tensor, num_classes: int) -> Tensor:
    """Classify features `[n, D]` by their nearest labelled ones `[m, D]` (DINO): `[n]`."""
    x = F.normalize(known, dim=1)
    chunks = F.normalize(asked, dim=1).split(CHUNK_SIZE)
    return torch.cat([vote(some @ x.T, labels, num_classes) for some in chunks])


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """Result of a linear probe.

    Attributes:
        predicted: `[n]`, the class of each image asked about.
        lr: the learning rate that was best on held-out labelled images.
        held_out: accuracy there, by learning rate.
    """

    predicted: Tensor
    lr: float
    held_out: dict[float, float]


class _Heads(nn.Module):
    """A linear classifier for each learning rate, on features normalised as by MAE's probe.

    BatchNorm without affine parameters (He et al. 2022, MAE): features of masked-image models have
    very different scales.
    """

    def __init__(self, width: int, num_classes: int, count: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.weight = nn.Parameter(torch.zeros(count, num_classes, width))
        self.bias = nn.Parameter(torch.zeros(count, num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Classify features `[B, D]` by every head: `[heads, B, K]`."""
        logits: Tensor = self.norm(features) @ self.weight.mT + self.bias[:, None]
        return logits


def linear_probe(
    known: Tensor,
    labels: Tensor,
    asked: Tensor,
    *,
    num_classes: int,
    seed: int,
    epochs: int = EPOCHS,
) -> LinearProbe:
    """Train linear classifiers with several learning rates at once, and use the best one.

    As in DINOv2 (Oquab et al. 2023) all rates are trained on the same batches. The best one is
    chosen on labelled images that are held out of the training, never on those asked about. SGD
    with momentum 0.9, no weight decay, a cosine schedule.

    Args:
        known: features `[m, D]`.
        labels: `[m]`, their classes.
        asked: features `[n, D]`.
        num_classes: K.
        seed: of the held-out images and the order.
        epochs: passes over the labelled images.
    """
    order = np.random.default_rng(seed_for(seed, "probe", "held-out")).permutation(len(known))
    num = max(1, round(HELD_OUT * len(known)))
    held_out, rest = (torch.from_numpy(some).to(known.device) for some in np.split(order, [num]))
    heads = _Heads(known.shape[1], num_classes, len(RATES)).to(known.device)
    _train(heads, known[rest], labels[rest], seed, epochs)
    heads.eval()
    with torch.no_grad():
        right = heads(known[held_out]).argmax(dim=2) == labels[held_out]
        accuracy = right.double().mean(dim=1).tolist()
        best = accuracy.index(max(accuracy))  # the lowest of equally good rates
        predicted = torch.cat([heads(some)[best].argmax(dim=1) for some in asked.split(CHUNK_SIZE)])
    return LinearProbe(predicted, RATES[best], dict(zip(RATES, accuracy, strict=True)))


def _train(heads: _Heads, known: Tensor, labels: Tensor, seed: int, epochs: int) -> None:
    """Train all heads on the same batches; each has its learning rate."""
    size = min(BATCH_SIZE, len(known))
    steps = epochs * (len(known) // size)
    # The gradient of the summed loss is each head's own, so its scale is the learning rate.
    rates = torch.tensor(RATES, device=known.device) * size / 256
    optimizer = torch.optim.SGD(heads.parameters(), lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for epoch in range(epochs):
        order = np.random.default_rng(seed_for(seed, "probe", epoch)).permutation(len(known))
        for at in range(0, len(known) - size + 1, size):
            rows = torch.from_numpy(order[at : at + size]).to(known.device)
            target = labels[rows].expand(len(RATES), -1)
            logits = heads(known[rows])
            losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
            (losses.view(len(RATES), -1).mean(dim=1) * rates).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
