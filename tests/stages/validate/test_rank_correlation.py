"""Rank correlations: against literal versions, scipy, and truths that are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from masktas.stages.validate.rank_correlation import (
    Interval,
    kendall,
    partial_spearman,
    regret,
    resamples,
    spearman,
)

numbers = st.lists(
    st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(-4, 4)), min_size=4, max_size=14
)


def alone(count):
    """The sample itself and nothing else."""
    return np.ones((1, count))


def drawn(row):
    """The networks of a resample, one after the other."""
    return np.repeat(np.arange(len(row)), row.astype(int))


def literal_tau(x, y):
    """Pair by pair, as Kendall wrote it."""
    agree = tied_x = tied_y = pairs = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        agree, tied_x, tied_y, pairs = (
            agree + a * b,
            tied_x + (a == 0),
            tied_y + (b == 0),
            pairs + 1,
        )
    free = (pairs - tied_x) * (pairs - tied_y)
    return agree / math.sqrt(free) if free else math.nan


def literal_partial(x, y, z):
    """What is left of two lists of ranks after regressing both on a third: how it correlates."""
    ranks = [stats.rankdata(one) for one in (x, y, z)]
    base = np.stack([np.ones(len(x)), ranks[2]], axis=1)
    left = [one - base @ np.linalg.lstsq(base, one, rcond=None)[0] for one in ranks[:2]]
    if min(np.abs(one).max() for one in left) < 1e-6:
        return math.nan
    return np.corrcoef(*left)[0, 1]


@given(numbers)
def test_tau_is_kendalls_and_scipys(rows):
    x, y, _ = np.array(rows, dtype=float).T
    found = kendall(x, y, alone(len(x)))[0]
    assert found == pytest.approx(literal_tau(x, y), nan_ok=True)
    if np.ptp(x) and np.ptp(y):
        assert found == pytest.approx(stats.kendalltau(x, y).statistic)


@given(numbers)
def test_rho_is_scipys(rows):
    x, y, _ = np.array(rows, dtype=float).T
    found = spearman(x, y, alone(len(x)))[0]
    if np.ptp(x) and np.ptp(y):
        assert found == pytest.approx(stats.spearmanr(x, y).statistic)
    else:
        assert math.isnan(found)


@given(numbers)
def test_partial_rho_is_that_of_the_residuals_of_the_ranks(rows):
    x, y, z = np.array(rows, dtype=float).T
    found = partial_spearman(x, y, z, alone(len(x)))[0]
    if np.ptp(x) and np.ptp(y) and np.ptp(z):
        assert found == pytest.approx(literal_partial(x, y, z), abs=1e-6, nan_ok=True)


def test_a_logarithm_of_what_is_given_changes_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20))
    given_params = rng.uniform(1e5, 1e7, size=20)
    found = [partial_spearman(x, y, one, alone(20)) for one in (given_params, np.log(given_params))]
    assert found[0] == found[1]


@given(numbers, st.integers(0, 100))
def test_a_resample_of_counts_is_the_resample_of_networks(rows, seed):
    x, y, _ = np.array(rows, dtype=float).T
    counts = resamples(len(x), 3, seed)
    taus, rhos = kendall(x, y, counts), spearman(x, y, counts)
    for row, tau, rho in zip(counts, taus, rhos, strict=True):
        at = drawn(row)
        assert tau == pytest.approx(kendall(x[at], y[at], alone(len(at)))[0], nan_ok=True)
        assert rho == pytest.approx(spearman(x[at], y[at], alone(len(at)))[0], nan_ok=True)


def literal_regret(rating, accuracy, k):
    """Sort, take k, look."""
    order = sorted(range(len(rating)), key=lambda at: (-rating[at], accuracy[at]))
    return max(accuracy) - max(accuracy[at] for at in order[:k])


@given(numbers, st.integers(1, 5), st.integers(0, 100))
def test_regret_is_what_taking_the_best_rated_costs(rows, k, seed):
    x, y, _ = np.array(rows, dtype=float).T
    counts = resamples(len(x), 3, seed)
    for row, found in zip(counts, regret(x, y, counts, k), strict=True):
        if k >= len(x) or not np.ptp(x):
            assert math.isnan(found)
        else:
            at = np.flatnonzero(row)
            assert found == literal_regret(x[at], y[at], k)


def test_regret_of_a_perfect_a_reversed_and_a_tied_rating():
    accuracy = np.array([0.5, 0.6, 0.7, 0.9])
    assert regret(accuracy, accuracy, alone(4), 1)[0] == 0
    assert regret(-accuracy, accuracy, alone(4), 1)[0] == pytest.approx(0.4)
    assert regret(-accuracy, accuracy, alone(4), 3)[0] == pytest.approx(0.2)
    tied = np.array([0.0, 1.0, 1.0, 1.0])
    assert regret(tied, accuracy, alone(4), 1)[0] == pytest.approx(0.3)  # ties earn nothing


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 1, 1, 1], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [2, 2, 2, 2]),
        ([1, 2], [1, 2]),
        ([1], [1]),
        ([], []),
        ([1, 2, math.nan, 3], [1, 2, 3, 4]),
        ([1, 2, math.inf, 3], [1, 2, 3, 4]),
    ],
)
def test_what_cannot_be_ranked_is_none_without_a_warning(x, y):
    x, y = np.array(x, dtype=float), np.array(y, dtype=float)
    counts = resamples(len(x), 50, 0) if len(x) else np.ones((51, 0))
    for statistic in (kendall, spearman):
        assert Interval.of(statistic(x, y, counts)) == Interval(None)
    assert Interval.of(partial_spearman(x, y, y, counts)) == Interval(None)


def test_a_rating_that_is_size_has_no_partial_correlation():
    rng = np.random.default_rng(0)
    params, accuracy = rng.normal(size=(2, 30))
    counts = resamples(30, 100, 0)
    assert Interval.of(partial_spearman(params**3, accuracy, params, counts)) == Interval(None)


def test_row_0_is_the_value_and_the_others_its_interval():
    values = np.concatenate([[7.0], np.arange(1001.0), [math.nan] * 10])
    found = Interval.of(values)
    assert (found.value, found.low, found.high) == pytest.approx((7, 25, 975))
    assert Interval.of(values[:1]) == Interval(7.0)
    seldom = np.concatenate([[7.0], np.ones(10), [math.nan] * 20])
    assert Interval.of(seldom) == Interval(7.0)
    assert Interval(0.5, 0.1, 0.9).above_zero
    assert not Interval(0.5, -0.1, 0.9).above_zero
    assert not Interval(0.5).above_zero


def test_resamples_are_bootstraps_named_by_their_seed():
    counts = resamples(12, 400, 3)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 12).all()
    assert (counts == resamples(12, 400, 3)).all()
    assert (counts != resamples(12, 400, 4)).any()
    assert counts[1:].mean(axis=0) == pytest.approx(np.ones(12), abs=0.2)
    assert counts[1:].var() == pytest.approx(11 / 12, abs=0.1)  # binomial


def test_intervals_cover_a_known_truth():
    """Pairs of a normal distribution with correlation 0.6, whose tau is known in closed form."""
    truth, covered = 2 / math.pi * math.asin(0.6), 0
    rng = np.random.default_rng(0)
    for trial in range(150):
        x, noise = rng.normal(size=(2, 30))
        y = 0.6 * x + 0.8 * noise
        found = Interval.of(kendall(x, y, resamples(30, 300, trial)))
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 150 <= 0.99
