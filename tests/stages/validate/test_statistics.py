"""Statistics of rankings: against literal versions, scipy, and truths that are known."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from masktas.stages.validate.statistics import (
    Interval,
    ceiling,
    compare,
    holm,
    kendall,
    p_value,
    partial_spearman,
    regret,
    resamples,
    spearman,
    spearman_brown,
    split_half,
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


def planted(seed=0, count=40):
    """Accuracy that is half size, and ratings that know all, size, the rest of it, or nothing."""
    rng = np.random.default_rng(seed)
    params, rest = rng.normal(size=(2, count))
    accuracy = params + rest
    ratings = {
        "oracle": accuracy + 0.1 * rng.normal(size=count),
        "bulk": params + 0.1 * rng.normal(size=count),
        "skill": rest,
        "chance": rng.normal(size=count),
        "params": params,
        "macs": params + 0.3 * rng.normal(size=count),
    }
    return ratings, accuracy, params


def test_planted_ratings_are_told_apart():
    ratings, accuracy, params = planted()
    counts = resamples(40, 500, 0)
    found = compare(ratings, accuracy, params, counts, of_size=("params", "macs"))
    assert list(found) == list(ratings)
    assert found["oracle"].gain.above_zero
    assert found["oracle"].partial.low > 0.8
    assert found["oracle"].regret[1].value <= found["chance"].regret[1].value
    assert not found["bulk"].gain.above_zero
    assert not found["bulk"].partial.above_zero
    assert found["bulk"].tau.above_zero
    assert found["skill"].partial.above_zero
    assert not found["chance"].tau.above_zero
    assert found["params"].gain == found["params"].partial == Interval(None)
    taus = [found[name].tau.value for name in ("params", "macs")]
    assert found["oracle"].gain.value == pytest.approx(found["oracle"].tau.value - max(taus))


def test_comparing_two_networks_says_nothing_and_does_not_fail():
    ratings = {"a": np.array([1.0, 2.0]), "params": np.array([3.0, 4.0])}
    found = compare(
        ratings, np.array([0.1, 0.2]), np.array([3.0, 4.0]), resamples(2, 9, 0), of_size=("params",)
    )
    one = found["a"]
    assert one.tau == one.rho == one.partial == one.gain == one.regret[1] == Interval(None)


def test_what_is_told_is_json_and_complete():
    ratings, accuracy, params = planted()
    found = compare(ratings, accuracy, params, resamples(40, 20, 0), of_size=("params",))
    told = found["skill"].to_dict()
    assert set(told) == {"tau", "rho", "partial", "gain", "regret", "gain_p", "partial_p"}
    assert set(told["regret"]) == {"1", "3", "5"}
    assert set(told["tau"]) == {"value", "low", "high"}
    assert all(isinstance(value, float) for value in told["tau"].values())


def test_forty_networks_and_ten_ratings_take_under_two_seconds():
    rng = np.random.default_rng(0)
    ratings = {f"rating-{number}": rng.normal(size=40) for number in range(10)}
    ratings["params"] = rng.normal(size=40)
    began = time.perf_counter()
    compare(ratings, rng.normal(size=40), ratings["params"], resamples(40, 2000, 0),
            of_size=("params",))  # fmt: skip
    assert time.perf_counter() - began < 2


def test_p_values_are_below_a_level_where_intervals_leave_zero_out():
    ratings, accuracy, _ = planted()
    counts = resamples(40, 2000, 0)
    tau = kendall(ratings["skill"], accuracy, counts)
    assert Interval.of(tau).above_zero
    assert p_value(tau) < 0.05
    assert p_value(-tau) == p_value(tau)
    assert p_value(tau) >= 2 / 2001
    assert p_value(np.zeros(9)) == 1.0
    assert p_value(np.full(9, np.nan)) is None
    assert p_value(np.ones(1)) is None


def test_holm_corrects_for_how_many_were_tried():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "none": None})
    assert found == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}
