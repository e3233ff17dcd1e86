"""Reliability and ceiling: against truths that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from masktas.stages.validate.rank_correlation import Interval, kendall, resamples
from masktas.stages.validate.reliability import ceiling, spearman_brown, split_half


def alone(count):
    """The sample itself and nothing else."""
    return np.ones((1, count))


def test_spearman_brown():
    longer = spearman_brown(np.array([0.0, 0.5, 1.0, math.nan]))
    assert longer == pytest.approx([0, 2 / 3, 1, math.nan], nan_ok=True)
    assert spearman_brown(np.array([0.5]), times=3)[0] == pytest.approx(0.75)
    assert np.isnan(spearman_brown(np.array([-1.0]))[0])


def measured(spread, num_networks=60, num_images=400, seed=0):
    """Ratings by image: the network's own, the image's own, and noise of standard deviation 1."""
    rng = np.random.default_rng(seed)
    own = spread * rng.normal(size=(num_networks, 1))
    noise = rng.normal(size=(num_networks, num_images))
    return own + 5 * rng.normal(size=(1, num_images)) + noise


def test_split_half_reliability_is_what_it_should_be():
    """Its own variance over that plus the noise of as many images."""
    for spread in (0.03, 0.1, 1.0):
        truth = spread**2 / (spread**2 + 1 / 400)
        found = np.mean(
            [
                split_half(measured(spread, seed=seed), alone(60), seed=0).corrected.value
                for seed in range(12)
            ]
        )
        assert found == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (5, 0), (5, 1)])
def test_too_little_to_split_is_none(shape):
    found = split_half(np.ones(shape), resamples(shape[0], 20, 0), seed=0)
    assert found.tau == found.rho == found.corrected == Interval(None)


def test_constant_ratings_have_no_reliability():
    found = split_half(np.full((6, 10), 0.1), resamples(6, 20, 0), seed=0)
    assert found.rho == Interval(None)


def classified(of_image, of_seed, *, seeds=2, seed=0):
    """Correctness of 80 networks: their own chance, and noise by image and by seed of the probe."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(1, 80, 1))
    logits = (
        own
        + of_seed * rng.normal(size=(seeds, 80, 1))
        + of_image * rng.normal(size=(1, 80, 50))  # the same image is hard with every seed
    )
    return logits


@pytest.mark.parametrize(("of_image", "of_seed"), [(0.1, 0.1), (4.0, 0.1), (0.1, 1.0), (4.0, 1.0)])
def test_the_ceiling_is_the_root_of_the_reliability(of_image, of_seed):
    """Also where the noise is that of images, which two seeds share, or of seeds."""
    truth = 1 / (1 + of_image**2 / 50 + of_seed**2 / 2)
    reliability = np.mean(
        [
            ceiling(classified(of_image, of_seed, seed=s), alone(80), seed=s).reliability.value
            for s in range(8)
        ]
    )
    assert reliability == pytest.approx(truth, abs=0.07)


def test_no_rating_reaches_more_than_the_ceiling_but_the_true_one_does():
    rng = np.random.default_rng(1)
    taus, ceilings = [], []
    for seed in range(20):
        own = np.random.default_rng(seed).normal(size=(1, 80, 1))[0, :, 0]  # as `classified` draws
        correct = classified(4.0, 0.5, seed=seed)
        accuracy = correct.mean(axis=(0, 2))
        taus.append(kendall(own, accuracy, alone(80))[0])
        ceilings.append(ceiling(correct, alone(80), seed=0).tau.value)
    assert np.mean(taus) == pytest.approx(np.mean(ceilings), abs=0.04)
    assert abs(kendall(rng.normal(size=80), accuracy, alone(80))[0]) < np.mean(ceilings)


def test_the_ceiling_with_one_seed_and_of_chance():
    one = ceiling(classified(4.0, 0.0, seeds=1), alone(80), seed=0)
    assert one.seeds.tau == Interval(None)
    assert one.reliability.value == pytest.approx(1 / (1 + 16 / 50), abs=0.12)
    assert one.tau.value < one.rho.value < 1
    same = np.ones((2, 10, 20))
    assert ceiling(same, alone(10), seed=0).tau == Interval(None)
    noise = np.random.default_rng(0).integers(0, 2, size=(2, 40, 60)).astype(float)
    assert ceiling(noise, alone(40), seed=0).reliability.value < 0.35
