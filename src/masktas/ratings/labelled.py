"""Ratings with labels, for those who have them: is a network's image told from others by class?

They look at whole images. Shapes: n images, D width of a candidate, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from masktas.nn.student import Answers
from masktas.ratings.label_free import Heads, RatingBatch

NEIGHBOURS = 20
RIDGE = 1e-2  # of a feature's variance, which is 1
SHARPNESS = 0.07  # how much more the nearest neighbours count (Wu et al. 2018, InstDisc)
AT_ONCE = 2048  # images whose likeness to all is computed together


class Accuracy:
    """Whether a linear classifier is right about an image: AutoFormer's way, without training.

    The supernet has no head, so the classifier is fitted in closed form (ridge regression on
    one-hot labels), on one half of the images for the other and the other way round.

    Args:
        labels: `[n]`, the class of each image that is shown.
    """

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def target(self, shown: RatingBatch, teacher: Answers) -> tuple[Tensor, ...]:
        """No answer is compared with the teacher's."""
        return ()

    def answer(self, tokens: Tensor, heads: Heads, target: tuple[Tensor, ...]) -> Tensor:
        """Return the features `[n, D]`: the mean over the patches."""
        return tokens[:, 1:].float().mean(dim=1)

    def per_image(self, answers: Tensor) -> Tensor:
        """Return 1 for each image that is classified right, else 0."""
        labels = self._labels.to(answers.device)
        right = torch.zeros(len(answers), device=answers.device, dtype=torch.float64)
        for half in (0, 1):
            train, test = slice(1 - half, None, 2), slice(half, None, 2)
            scores = _ridge(answers[train], labels[train], answers[test])
            right[test] = (scores.argmax(dim=1) == labels[test]).double()
        return right


def _ridge(features: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Fit one-hot labels to features `[m, D]` and return the scores of others, `[o, K]`."""
    x = features.double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-6)
    x = (x - mean) / std
    wanted = F.one_hot(labels, int(labels.max()) + 1).double()
    offset = wanted.mean(dim=0)
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(gram, x.T @ (wanted - offset))
    scores: Tensor = ((others.double() - mean) / std) @ weights + offset
    return scores


class Knn:
    """Whether the nearest others of an image vote for its class (cosine, leaving itself out).

    Args:
        labels: `[n]`, the class of each image that is shown.
    """

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def target(self, shown: RatingBatch, teacher: Answers) -> tuple[Tensor, ...]:
        """No answer is compared with the teacher's."""
        return ()

    def answer(self, tokens: Tensor, heads: Heads, target: tuple[Tensor, ...]) -> Tensor:
        """Return the features `[n, D]`: the mean over the patches."""
        return tokens[:, 1:].float().mean(dim=1)

    def per_image(self, answers: Tensor) -> Tensor:
        """Return 1 for each image whose neighbours are right, else 0."""
        labels = self._labels.to(answers.device)
        x = F.normalize(answers - answers.mean(dim=0), dim=1)
        right = [
            self._voted(x[rows], x, rows, labels) == labels[rows]
            for rows in torch.arange(len(x), device=x.device).split(AT_ONCE)
        ]
        return torch.cat(right).double()

    def _voted(self, some: Tensor, x: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """Return the class that the neighbours of some images vote for."""
        likeness = some @ x.T
        likeness[torch.arange(len(rows), device=x.device), rows] = -torch.inf
        near, which = likeness.topk(min(NEIGHBOURS, len(x) - 1), dim=1)
        votes = near.new_zeros(len(some), int(labels.max()) + 1)
        votes.scatter_add_(1, labels[which], (near / SHARPNESS).softmax(dim=1))
        return votes.argmax(dim=1)
