"""Fused ratings: a network's mean place among a sample, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktas.ratings.fusion import Fusion

ONE = "one"
Numbers = np.ndarray


def drawn(seed: int, networks: int = 20, images: int = 60, own: float = 0.1) -> Numbers:
    """Numbers of networks for images: some are better, and some images are easier, for all."""
    rng = np.random.default_rng(seed)
    better = rng.normal(0, 0.05, (networks, 1))
    easier = rng.normal(0, 0.3, images)
    return better + easier + rng.normal(0, own, (networks, images))


def fused(sample: Numbers, numbers: Numbers) -> Numbers:
    return Fusion({ONE: sample})({ONE: numbers}, len(numbers))


def literal_place(means: list[float], mean: float) -> float:
    """Interpolate between neighbours, in plain Python; inside the sample only."""
    ordered = sorted(means)
    places = [(at + 0.5) / len(ordered) for at in range(len(ordered))]
    for at in range(len(ordered) - 1):
        if ordered[at] <= mean < ordered[at + 1]:
            share = (mean - ordered[at]) / (ordered[at + 1] - ordered[at])
            return places[at] + share * (places[at + 1] - places[at])
    assert mean == ordered[-1]
    return places[-1]


def test_networks_of_the_sample_have_their_own_places() -> None:
    sample = drawn(0)
    places = [fused(sample, one).mean() for one in sample]
    assert sorted(places) == pytest.approx([(at + 0.5) / 20 for at in range(20)])
    assert np.argsort(places).tolist() == np.argsort(sample.mean(axis=1)).tolist()


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_place_equals_interpolation_in_loops_and_is_between_0_and_1(
    seed: int, share: float
) -> None:
    sample = drawn(seed, networks=8, images=12)
    means = sample.mean(axis=1)
    numbers = share * sample[means.argmax()] + (1 - share) * sample[means.argmin()]
    mean = min(max(numbers.mean(), means.min()), means.max())  # rounding
    place = fused(sample, numbers).mean()
    assert place == pytest.approx(literal_place(means.tolist(), mean), abs=1e-9)
    assert 0 <= place <= 1


@given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(1e-6, 2))
def test_better_by_one_rating_is_better_inside_and_beyond_the_sample(
    seed: int, at: float, more: float
) -> None:
    sample = {"one": drawn(seed, 6, 10), "two": drawn(seed + 1, 6, 10)}
    fusion = Fusion(sample)
    numbers = {"one": drawn(seed + 2, 1, 10)[0] + at, "two": drawn(seed + 3, 1, 10)[0]}
    for name in sample:
        better = numbers | {name: numbers[name] + more}
        assert fusion(better, 10).mean() > fusion(numbers, 10).mean()


def test_the_fused_rating_is_the_mean_of_places() -> None:
    sample = {"one": drawn(0), "two": drawn(1)}
    numbers = {"one": drawn(2)[0], "two": drawn(3)[0]}
    both = Fusion(sample)(numbers, 60).mean()
    each = [fused(sample[name], numbers[name]).mean() for name in sample]
    assert both == pytest.approx(sum(each) / 2)
    swapped = Fusion(dict(reversed(sample.items())))(numbers, 60).mean()
    assert swapped == pytest.approx(both, abs=1e-12)


def test_units_and_spread_of_a_rating_do_not_matter() -> None:
    sample, numbers = drawn(0), drawn(1)[0]
    plain = fused(sample, numbers)
    np.testing.assert_allclose(fused(1000 * sample - 7, 1000 * numbers - 7), plain, atol=1e-8)


def test_the_first_images_are_compared_with_the_samples_first() -> None:
    sample, numbers = drawn(0), drawn(1)[0]
    some = Fusion({ONE: sample})({ONE: numbers[:25]}, 25)
    np.testing.assert_array_equal(some, fused(sample[:, :25], numbers[:25]))
    assert some.mean() != fused(sample, numbers).mean()


def test_samples_that_cannot_tell_say_the_middle() -> None:
    assert fused(np.ones((5, 4)), np.full(4, 3.0)).tolist() == [0.5] * 4
    assert fused(np.ones((1, 4)), np.full(4, 3.0)).tolist() == [0.5] * 4
    ties = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    places = [fused(ties, one).mean() for one in ties]
    assert places == pytest.approx([1 / 4, 1 / 4, 5 / 8, 7 / 8])


def test_the_standard_error_is_that_of_a_bootstrap_over_images() -> None:
    """All are ranked anew on every resample: what moves all networks alike moves no place."""
    rng = np.random.default_rng(0)
    ratios, naive = [], []
    for seed in range(30):
        numbers = drawn(seed, 51, 400)
        sample, own = numbers[:-1], numbers[-1]
        drawn_again = [rng.integers(0, 400, 400) for _ in range(150)]
        places = [fused(sample[:, rows], own[rows]).mean() for rows in drawn_again]
        error = fused(sample, own).std(ddof=1) / 400**0.5
        ratios.append(error / np.std(places))
        naive.append(error / np.std([fused(sample, own[rows]).mean() for rows in drawn_again]))
    assert np.median(ratios) == pytest.approx(1, abs=0.15)
    assert min(ratios) > 0.4
    assert max(ratios) < 2.5
    assert np.median(naive) < 0.6  # with the sample held still, easy images would seem to matter
