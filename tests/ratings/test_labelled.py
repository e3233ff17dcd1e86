"""Ratings with labels: right where classes can be told apart, chance where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from masktas.nn.student import MaskedStudent, StudentShape
from masktas.ratings.labelled import RIDGE, Accuracy, Knn
from masktas.ratings.probes import NEIGHBOURS, SHARPNESS
from masktas.space import Architecture

BOTH = [Accuracy, Knn]


def classes(count: int, images: int = 90, seed: int = 0) -> Tensor:
    return torch.randint(count, (images,), generator=torch.Generator().manual_seed(seed))


def features(labels: Tensor, apart: float, width: int = 12, seed: int = 1) -> Tensor:
    """Numbers of images, each class around its own middle."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.randn(int(labels.max()) + 1, width, generator=generator)
    return apart * middles[labels] + torch.randn(len(labels), width, generator=generator)


def literal_ridge(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fit one half for the other with scikit-learn; which images are right."""
    right = np.zeros(len(x))
    for half in (0, 1):
        train, test = slice(1 - half, None, 2), slice(half, None, 2)
        scale = StandardScaler().fit(x[train])
        wanted = np.eye(labels.max() + 1)[labels[train]]
        # ours penalises the mean of squares
        model = Ridge(alpha=RIDGE * len(x[train])).fit(scale.transform(x[train]), wanted)
        right[test] = model.predict(scale.transform(x[test])).argmax(1) == labels[test]
    return right


def literal_knn(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Ask scikit-learn about each image with all others."""
    x = x - x.mean(axis=0)
    right = []
    for at in range(len(x)):
        others = np.arange(len(x)) != at
        model = KNeighborsClassifier(
            min(NEIGHBOURS, len(x) - 1),
            metric="cosine",
            algorithm="brute",
            weights=lambda distances: np.exp((1 - distances) / SHARPNESS),
        )
        model.fit(x[others], labels[others])
        right.append(model.predict(x[[at]])[0] == labels[at])
    return np.array(right, float)


@pytest.mark.parametrize("apart", [0.0, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("count", [2, 7])
def test_both_say_what_scikit_learn_says(apart: float, count: int) -> None:
    labels = classes(count)
    x = features(labels, apart)
    x64 = x.double().numpy()
    assert Accuracy(labels).per_image(x).tolist() == literal_ridge(x64, labels.numpy()).tolist()
    assert Knn(labels).per_image(x).tolist() == literal_knn(x64, labels.numpy()).tolist()


@pytest.mark.parametrize("kind", BOTH)
def test_separable_classes_are_told_apart_and_random_ones_by_chance(kind: type) -> None:
    labels = classes(5, 2000)
    assert kind(labels).per_image(features(labels, 8.0)).mean() > 0.99
    chance = kind(labels).per_image(features(labels, 0.0)).mean().item()
    assert chance == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 2000) ** 0.5)


@pytest.mark.parametrize("kind", BOTH)
def test_constant_and_repeated_features_say_nothing_and_break_nothing(kind: type) -> None:
    labels = classes(3, 300)
    commonest = labels.bincount().max().item() / 300
    rated = kind(labels).per_image(torch.ones(300, 4))
    assert set(rated.tolist()) <= {0.0, 1.0}
    assert rated.mean() <= commonest + 0.05
    x = features(labels, 3.0)
    padded = torch.cat([x, x, torch.full((300, 2), 7.0)], dim=1)
    assert kind(labels).per_image(padded).mean() > 0.9


@pytest.mark.parametrize("kind", BOTH)
def test_a_class_of_one_image_is_not_learnt_and_not_an_error(kind: type) -> None:
    labels = classes(2, 41)
    for at in (0, 1, 40):
        alone = labels.clone()
        alone[at] = 9
        rated = kind(alone).per_image(features(alone, 8.0))
        assert rated[at] == 0
        assert rated.mean() > 0.9


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("images", [2, 3, 5])
def test_very_few_images_are_rated(kind: type, images: int) -> None:
    labels = torch.arange(images) // 2
    rated = kind(labels).per_image(features(labels, 5.0))
    assert rated.shape == (images,)
    assert set(rated.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("kind", BOTH)
def test_they_look_at_the_mean_of_the_patches_whatever_the_batch(kind: type) -> None:
    tokens = torch.randn(30, 6, 12)
    one = Architecture(12, (1,), (2,), head_dim=4, image_size=(4, 4), patch_size=2, num_classes=0)
    student = MaskedStudent(one, StudentShape(32, 1, 8, unit=2))
    rating = kind(classes(3, 30))
    answers = [rating.measure(part, student, ()) for part in tokens.split(7)]
    torch.testing.assert_close(torch.cat(answers), tokens[:, 1:].mean(dim=1))
    other = tokens.clone()
    other[:, 0] += 100
    assert torch.equal(rating.measure(other, student, ()), rating.measure(tokens, student, ()))


def test_neighbours_of_many_images_are_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = classes(4)
    x = features(labels, 0.7)
    whole = Knn(labels).per_image(x)
    monkeypatch.setattr("masktas.ratings.labelled.CHUNK_SIZE", 13)
    assert torch.equal(Knn(labels).per_image(x), whole)
    assert 0.3 < whole.mean() < 1
