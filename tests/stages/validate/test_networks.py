"""Networks of all sizes evenly, or within a band; distinct, and named by the seed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from masktas.errors import BudgetError
from masktas.space import Budget, BudgetedSpace, SearchSpace, params
from masktas.stages.validate.networks import banded, stratified, within

MICRO = BudgetedSpace(SearchSpace.preset("micro"), Budget())


def test_there_is_one_network_in_each_range_of_sizes():
    drawn = stratified(MICRO, 30, random.Random(0))
    low, high = MICRO.cost_range("params")
    strata = [int(30 * (params(one) - low) / (high + 1 - low)) for one in drawn]
    assert len(set(drawn)) == 30
    assert len(set(strata)) >= 28  # a range in a gap between widths holds none
    assert drawn == stratified(MICRO, 30, random.Random(0))
    assert drawn != stratified(MICRO, 30, random.Random(1))


def test_a_budget_bounds_the_ranges():
    candidates = BudgetedSpace(MICRO.space, Budget(min_params=600_000, max_params=900_000))
    sizes = [params(one) for one in stratified(candidates, 12, random.Random(0))]
    assert min(sizes) >= 600_000
    assert max(sizes) <= 900_000
    assert np.ptp(sizes) > 240_000


def test_a_band_holds_distinct_networks_of_about_one_size():
    band = within(MICRO, "params", 855_000, 945_000)
    drawn = banded(band, 30, random.Random(0))
    assert len(set(drawn)) == 30
    assert all(855_000 <= params(one) <= 945_000 for one in drawn)


def test_a_band_stays_within_the_budget_and_an_empty_one_is_refused():
    candidates = BudgetedSpace(MICRO.space, Budget(max_params=900_000, max_macs=60_000_000))
    band = within(candidates, "params", 855_000, 945_000)
    assert band.budget == Budget(min_params=855_000, max_params=900_000, max_macs=60_000_000)
    with pytest.raises(BudgetError):
        within(candidates, "params", 950_000, 990_000)


def test_a_space_with_fewer_networks_gives_all_it_has():
    space = SearchSpace("few", (16, 24), (1,), (1,), (2, 3), head_dim=8, image_size=(8, 8),
                        patch_size=4, num_classes=3)  # fmt: skip
    everything = BudgetedSpace(space, Budget())
    for choose in (stratified, banded):
        drawn = choose(everything, 30, random.Random(0))
        assert len(drawn) == len(set(drawn)) == everything.size() == 4
