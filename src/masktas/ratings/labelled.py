"""Ratings with labels: accuracy of a candidate's own head, or of its frozen features.

They use whole images. Shapes: n images, D width of a candidate, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.nn.supervised import Classifier
from masktas.ratings.batches import RatingBatch
from masktas.ratings.label_free import TeacherTokens
from masktas.ratings.probes import CHUNK_SIZE, vote

RIDGE = 1e-2  # of a feature's variance, which is 1


class HeadAccuracy:
    """Whether a candidate's slice of the shared head is right about an image (AutoFormer).

    Args:
        labels: `[n]`, the class of each image.
    """

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def target(self, batch: RatingBatch, teacher: TeacherTokens) -> tuple[Tensor, ...]:
        """Return nothing: there is no teacher."""
        return ()

    def measure(self, tokens: Tensor, student: nn.Module, target: tuple[Tensor, ...]) -> Tensor:
        """Return the predicted classes `[n]`."""
        assert isinstance(student, Classifier)
        return student.classify(tokens).argmax(dim=1)

    def per_image(self, measured: Tensor) -> Tensor:
        """Return 1 for each image that is classified correctly, else 0."""
        return (measured == self._labels.to(measured.device)).double()


class Accuracy:
    """Whether a linear classifier is right about an image: for networks without a head.

    The classifier is fitted in closed form (ridge regression on one-hot labels) on each half of
    the images and evaluated on the other half.

    Args:
        labels: `[n]`, the class of each image.
    """

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def target(self, batch: RatingBatch, teacher: TeacherTokens) -> tuple[Tensor, ...]:
        """Return nothing: the teacher is not used."""
        return ()

    def measure(self, tokens: Tensor, student: nn.Module, target: tuple[Tensor, ...]) -> Tensor:
        """Return the features `[n, D]`: the mean over the patches."""
        return tokens[:, 1:].float().mean(dim=1)

    def per_image(self, measured: Tensor) -> Tensor:
        """Return 1 for each image that is classified correctly, else 0."""
        labels = self._labels.to(measured.device)
        correct = torch.zeros(len(measured), device=measured.device, dtype=torch.float64)
        for half in (0, 1):
            train, test = slice(1 - half, None, 2), slice(half, None, 2)
            scores = _ridge(measured[train], labels[train], measured[test])
            correct[test] = (scores.argmax(dim=1) == labels[test]).double()
        return correct


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
    """Whether the nearest other images vote for an image's class (cosine similarity).

    Args:
        labels: `[n]`, the class of each image.
    """

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def target(self, batch: RatingBatch, teacher: TeacherTokens) -> tuple[Tensor, ...]:
        """Return nothing: the teacher is not used."""
        return ()

    def measure(self, tokens: Tensor, student: nn.Module, target: tuple[Tensor, ...]) -> Tensor:
        """Return the features `[n, D]`: the mean over the patches."""
        return tokens[:, 1:].float().mean(dim=1)

    def per_image(self, measured: Tensor) -> Tensor:
        """Return 1 for each image whose neighbours vote for its class, else 0."""
        labels = self._labels.to(measured.device)
        x = F.normalize(measured - measured.mean(dim=0), dim=1)
        correct = [
            self._voted(x[rows], x, rows, labels) == labels[rows]
            for rows in torch.arange(len(x), device=x.device).split(CHUNK_SIZE)
        ]
        return torch.cat(correct).double()

    def _voted(self, some: Tensor, x: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """Return the class that the neighbours of the images `rows` vote for."""
        similarity = some @ x.T
        similarity[torch.arange(len(rows), device=x.device), rows] = -torch.inf
        return vote(similarity, labels, int(labels.max()) + 1)
