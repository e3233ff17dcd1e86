"""What choosing by a rating is worth: against networks whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from masktas.stages.validate.gain import SELECTED, intensity, spread
from masktas.stages.validate.rank_correlation import Interval, resamples
from masktas.stages.validate.reliability import ceiling

NETWORKS, IMAGES, SEEDS = 80, 400, 2
RUNS = 12  # simulated validations whose estimates are averaged
ALONE = np.ones((1, NETWORKS))


def simulated(sd, *, of_seed=0.0, rho=1.0, seeds=SEEDS, networks=NETWORKS, seed=0):
    """Networks of true accuracy 0.7 with standard deviation `sd`, and a rating of them.

    A network is right about an image where a number drawn for both is below its accuracy; the
    number is the same for every seed of the probe. Each seed adds noise of its own to a network.

    Returns:
        Correctness `[S, n, m]`, ratings `[n]` that correlate by `rho` with the truth, and the true
        accuracies.
    """
    rng = np.random.default_rng(seed)
    skill, other = rng.normal(size=(2, networks))
    accuracy = 0.7 + sd * skill
    probed = accuracy + of_seed * rng.normal(size=(seeds, networks))
    correct = rng.uniform(size=(networks, IMAGES)) < probed[:, :, None]
    return correct.astype(float), rho * skill + math.sqrt(1 - rho**2) * other, accuracy


def estimated(sd, *, rho=1.0, **more):
    """Estimates of one spread after another."""
    for seed in range(RUNS):
        correct, rating, _ = simulated(sd, rho=rho, seed=seed, **more)
        yield spread({"it": rating}, correct, ALONE, seed=seed)


def chosen(sd, rho, count, times=20_000):
    """The literal gain: the best rated of `count` random networks, again and again."""
    rng = np.random.default_rng(1)
    skill, other = rng.normal(size=(2, times, count))
    rating = rho * skill + math.sqrt(1 - rho**2) * other
    return float(sd * skill[np.arange(times), rating.argmax(axis=1)].mean())


@pytest.mark.parametrize("count", [1, 2, 16, 1000])
def test_the_selection_intensity_is_the_expected_largest_of_normal_numbers(count):
    known = {1: 0.0, 2: 1 / math.sqrt(math.pi)}
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(4000, count)).max(axis=1).mean()
    assert intensity(count) == pytest.approx(known.get(count, drawn), abs=0.03)
    if count in known:
        assert intensity(count) == pytest.approx(known[count], abs=1e-6)


@pytest.mark.parametrize(("sd", "of_seed"), [(0.05, 0.0), (0.05, 0.05), (0.02, 0.02)])
def test_the_true_standard_deviation_is_found_beneath_both_noises(sd, of_seed):
    """One test set gives noise of 0.023, which both seeds share; that is not a difference."""
    found = [one.sd.value for one in estimated(sd, of_seed=of_seed)]
    assert np.mean(found) == pytest.approx(sd, rel=0.15)
    naive = np.mean(
        [
            simulated(sd, of_seed=of_seed, seed=seed)[0].mean(axis=(0, 2)).std(ddof=1)
            for seed in range(RUNS)
        ]
    )
    assert naive > 1.08 * np.mean(found)


def test_networks_that_do_not_differ_gain_nothing():
    found = list(estimated(0.0, of_seed=0.02))
    assert np.mean([one.sd.value for one in found]) < 0.008
    gained = [one.gains["it"].best_of[1000].value for one in found]
    assert any(value == 0 for value in gained)  # where noise made the variance negative
    assert abs(np.mean([value for value in gained if value is not None])) < 0.01


def test_the_noise_of_a_single_seed_counts_as_a_difference():
    sd, of_seed = 0.03, 0.03
    found = np.mean([one.sd.value for one in estimated(sd, of_seed=of_seed, seeds=1)])
    assert found == pytest.approx(math.hypot(sd, of_seed), rel=0.15)


def test_the_share_of_the_variance_is_that_of_the_ceiling():
    """Planted: true variance over it plus that of seeds, halved, and of images."""
    sd, of_seed = 0.04, 0.04
    of_images = 0.7 * 0.3 / IMAGES
    truth = sd**2 / (sd**2 + of_seed**2 / SEEDS + of_images)
    found = []
    for seed in range(40):
        correct, _, _ = simulated(sd, of_seed=of_seed, seed=seed)
        found.append(ceiling(correct, ALONE, seed=seed).reliability.value)
    assert np.mean(found) == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("rho", [0.3, 0.8, 1.0])
def test_a_rating_is_credited_with_its_correlation_and_gain(rho):
    sd = 0.05
    found = list(estimated(sd, rho=rho, of_seed=0.03))
    assert np.mean([one.gains["it"].rho.value for one in found]) == pytest.approx(rho, abs=0.08)
    count = SELECTED[0]
    gained = np.mean([one.gains["it"].best_of[count].value for one in found])
    assert gained == pytest.approx(chosen(sd, rho, count), rel=0.2)


def test_no_rating_gains_more_than_a_perfect_one():
    for one in estimated(0.05, of_seed=0.03):
        assert one.perfect.rho.value == 1
        for count in SELECTED:
            perfect = one.perfect.best_of[count].value
            assert perfect == pytest.approx(intensity(count) * one.sd.value)
            assert one.gains["it"].best_of[count].value <= perfect + 1e-12
        assert one.perfect.best_of[1000].value > one.perfect.best_of[16].value


def test_a_rating_of_the_wrong_sign_loses():
    correct, rating, _ = simulated(0.05)
    one = spread({"it": rating, "reverse": -rating}, correct, ALONE, seed=0)
    assert one.gains["reverse"].rho.value == pytest.approx(-one.gains["it"].rho.value)
    assert one.gains["reverse"].best_of[16].value < 0


def test_intervals_hold_the_truth():
    """95 % intervals from the bootstrap over networks, in at least 15 of 20 validations."""
    sd, held = 0.05, 0
    for seed in range(20):
        correct, rating, _ = simulated(sd, of_seed=0.03, rho=0.6, seed=seed)
        one = spread({"it": rating}, correct, resamples(NETWORKS, 300, seed), seed=seed)
        held += one.sd.low <= sd <= one.sd.high and (
            one.gains["it"].rho.low <= 0.6 <= one.gains["it"].rho.high
        )
    assert held >= 15


def test_too_few_networks_or_images_are_none_everywhere():
    for networks, images in ((2, 40), (20, 1)):
        correct = np.random.default_rng(0).integers(0, 2, (2, networks, images)).astype(float)
        counts = resamples(networks, 30, 0)
        one = spread({"it": np.arange(float(networks))}, correct, counts, seed=0)
        assert one.sd == one.gains["it"].best_of[16] == one.perfect.rho == Interval(None)


def test_ratings_that_are_all_equal_have_no_gain_to_tell():
    correct, _, _ = simulated(0.05)
    one = spread({"constant": np.ones(NETWORKS)}, correct, ALONE, seed=0)
    assert one.gains["constant"].rho == one.gains["constant"].best_of[16] == Interval(None)
    assert one.sd.value > 0.03


def test_what_is_told_is_json_and_complete():
    correct, rating, _ = simulated(0.05)
    told = spread({"it": rating}, correct, resamples(NETWORKS, 30, 0), seed=0).to_dict()
    assert set(told) == {"sd", "perfect", "gains"}
    assert set(told["gains"]["it"]) == {"rho", "best_of"}
    assert set(told["gains"]["it"]["best_of"]) == {"16", "1000"}
    assert all(isinstance(value, float) for value in told["sd"].values())
