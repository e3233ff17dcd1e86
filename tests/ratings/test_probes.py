"""Classifiers of frozen features against scikit-learn and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from masktas.ratings.probes import RATES, linear_probe, nearest_neighbours


def clusters(count: int, seed: int, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    centers = torch.randn(4, 8, generator=torch.Generator().manual_seed(9))
    return centers[labels] * 2 + noise * torch.randn(count, 8, generator=generator), labels


def test_neighbours_vote_as_scikit_learn_with_the_same_weights() -> None:
    (known, labels), (asked, _) = clusters(200, 0, 3.0), clusters(5000, 1, 3.0)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)

    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=weights)
    wanted = model.fit(known.numpy(), labels.numpy()).predict(asked.numpy())
    found = nearest_neighbours(known, labels, asked, 4).numpy()
    plain = KNeighborsClassifier(20, metric="cosine", algorithm="brute")
    unweighted = plain.fit(known.numpy(), labels.numpy()).predict(asked.numpy())
    assert (found == wanted).mean() > 0.999
    assert (found != unweighted).mean() > 0.01  # the weights matter here


def test_few_and_zero_features_have_neighbours() -> None:
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    asked = torch.tensor([[2.0, 0.1], [0.1, 3.0]])
    assert nearest_neighbours(known, torch.tensor([1, 0, 2]), asked, 3).tolist() == [1, 0]


def test_the_linear_probe_learns_features_of_any_scale() -> None:
    (known, labels), (asked, truth) = clusters(240, 0), clusters(200, 1)
    scale = torch.logspace(-3, 3, 8)
    found = linear_probe(known * scale, labels, asked * scale, num_classes=4, seed=0, epochs=20)
    plain = linear_probe(known, labels, asked, num_classes=4, seed=0, epochs=20)
    assert (found.predicted == truth).double().mean() > 0.95
    assert (found.predicted == plain.predicted).double().mean() > 0.97
    assert found.lr in RATES
    assert found.held_out[found.lr] == max(found.held_out.values())


def test_the_linear_probe_depends_on_its_seed_only() -> None:
    (known, labels), (asked, _) = clusters(60, 0, 4.0), clusters(100, 1, 4.0)
    torch.manual_seed(3)
    first = linear_probe(known, labels, asked, num_classes=4, seed=5, epochs=3)
    torch.manual_seed(4)
    again = linear_probe(known, labels, asked, num_classes=4, seed=5, epochs=3)
    other = linear_probe(known, labels, asked, num_classes=4, seed=6, epochs=3)
    assert torch.equal(first.predicted, again.predicted)
    assert first.held_out == again.held_out
    assert first.held_out != other.held_out


def test_each_head_is_trained_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    (known, labels), (asked, _) = clusters(60, 0, 4.0), clusters(100, 1, 4.0)
    together = linear_probe(known, labels, asked, num_classes=4, seed=0, epochs=3).held_out
    for lr in RATES:
        monkeypatch.setattr("masktas.ratings.probes.RATES", (lr,))
        alone = linear_probe(known, labels, asked, num_classes=4, seed=0, epochs=3)
        assert alone.held_out[lr] == pytest.approx(together[lr])
