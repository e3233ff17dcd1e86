"""Agreement with accuracy beside that of size: planted ratings are distinguished."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from masktas.stages.validate.agreement import compare, compare_supernets, holm, p_value
from masktas.stages.validate.rank_correlation import Interval, kendall, resamples


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


def two_supernets(alike, skill, seed, count=400):
    """Ratings by two supernets that correlate by `alike`, each by `skill` with accuracy.

    They are in different units.
    """
    rng = np.random.default_rng(seed)
    matrix = [[1, alike, skill], [alike, 1, skill], [skill, skill, 1]]
    own, other, accuracy = rng.multivariate_normal(np.zeros(3), matrix, size=count).T
    return 50 * own, other / 50 + 7, accuracy


def tau_of(correlation):
    """Kendall's tau of normal numbers with a correlation."""
    return 2 / math.pi * math.asin(correlation)


@pytest.mark.parametrize(("alike", "skill"), [(0.0, 0.0), (0.5, 0.5), (0.9, 0.3)])
def test_planted_agreement_of_two_supernets_is_found(alike, skill):
    counts = resamples(400, 0, 0)
    found = [compare_supernets(*two_supernets(alike, skill, seed), counts) for seed in range(5)]

    def mean(name):
        return np.mean([getattr(one, name).value for one in found])

    assert mean("between") == pytest.approx(tau_of(alike), abs=0.04)
    assert mean("own") == pytest.approx(tau_of(skill), abs=0.04)
    assert mean("other") == pytest.approx(tau_of(skill), abs=0.04)
    # a mean of two has the noise of each at half weight, whatever their units
    both = skill * math.sqrt(2 / (1 + alike))
    assert mean("mean") == pytest.approx(tau_of(both), abs=0.04)


def test_two_supernets_without_labels_or_with_equal_ratings():
    own, other, accuracy = two_supernets(0.5, 0.5, 0, count=30)
    counts = resamples(30, 50, 0)
    one = compare_supernets(own, other, None, counts)
    assert one.own == one.other == one.mean == Interval(None)
    assert one.between.low < one.between.value < one.between.high
    constant = compare_supernets(own, np.ones(30), accuracy, counts)
    assert constant.between == constant.other == Interval(None)
    assert constant.mean == constant.own
    assert set(one.to_dict()) == {"between", "own", "other", "mean"}
