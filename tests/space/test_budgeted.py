"""Spaces within budgets of all five quantities: real sizes, narrow bands, big spaces."""

import itertools
import random
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from large_spaces import BIG, COSTS, NAMES, SPACES, WIDE, band
from masktas.errors import BudgetError
from masktas.space import PRESETS, QUANTITIES, Architecture, Budget, BudgetedSpace, macs, params
from masktas.space.budgeted import _drawn

# --- whole spaces


@pytest.mark.parametrize("name", NAMES)
def test_without_limits_it_is_the_whole_space_in_every_quantity(name):
    space, costs = SPACES[name], COSTS[name]
    whole = BudgetedSpace(space, Budget(), costs)
    assert whole.size() == space.size()
    for what in ("params", "macs", "size", "memory"):
        small, large = (
            [costs.amount(what, one.replace(patch_size=patch)) for patch in space.patch_size]
            for one in (space.smallest, space.largest)
        )
        assert whole.cost_range(what) == (min(small), max(large))
    some = [costs.of(space.sample(random.Random(seed)))["latency"] for seed in range(50)]
    least, most = whole.cost_range("latency")
    assert least <= min(some)
    assert max(some) <= most
    assert macs(whole.costliest(random.Random(0))) == macs(space.largest)
    with pytest.raises(BudgetError, match="'flops' is not a cost"):
        whole.cost_range("flops")


@pytest.mark.parametrize(
    "quantities",
    [("size",), ("memory",), ("params", "macs"), ("latency", "params"), QUANTITIES],
)
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.slow
def test_the_presets_are_exact_under_every_mix(name, quantities):
    space, costs = SPACES[name], COSTS[name]
    limits = {f"max_{what}": costs.amount(what, space.middle) for what in quantities}
    counted = BudgetedSpace(space, Budget(**limits), costs)
    assert counted.exact is not (name in WIDE and "latency" in quantities)
    assert 0 < counted.size() < space.size()
    for what in QUANTITIES:
        low, high = counted.cost_range(what)
        assert low <= high <= limits.get(f"max_{what}", high)
    rng = random.Random(0)
    assert all(counted.contains(counted.sample(rng)) for _ in range(20))


def test_a_large_space_is_iterated_lazily_and_in_the_same_order():
    counted = BudgetedSpace(BIG, band("big", "params", share=0.01), COSTS["big"])
    first = list(itertools.islice(counted, 200))
    assert first == list(itertools.islice(counted, 200))
    assert len(set(first)) == 200
    assert all(counted.contains(one) for one in first)


def test_a_space_whose_cells_are_not_exact_is_iterated_within_the_budget():
    counted = BudgetedSpace(BIG, band("big", "params", "macs", "latency", share=0.02), COSTS["big"])
    assert not counted.exact
    first = list(itertools.islice(counted, 200))
    assert len(set(first)) == 200
    assert all(counted.contains(one) for one in first)


def test_a_cell_is_drawn_as_often_as_it_has_networks():
    cells, rng = [SimpleNamespace(ways=ways) for ways in (1, 1, 2, 4)], random.Random(0)
    drawn = Counter(_drawn(cells, rng).ways for _ in range(8000))
    assert drawn[4] == pytest.approx(4000, rel=0.1)
    assert drawn[2] == pytest.approx(2000, rel=0.1)
    last = sum(_drawn(cells[:2], rng) is cells[1] for _ in range(1000))
    assert last == pytest.approx(500, rel=0.2)


def test_contains_costs_the_network_itself():
    counted = BudgetedSpace(PRESETS["tiny"], Budget(max_size=25_000_000))
    assert counted.contains(PRESETS["tiny"].smallest)
    assert not counted.contains(PRESETS["tiny"].largest)
    assert not counted.contains(Architecture(192, (3,) * 12, (2,) * 12))


# --- narrow bands, directly


@pytest.mark.parametrize(
    ("name", "quantities"),
    [
        ("small", ("latency",)),
        ("small", ("params", "latency")),
        ("base", ("size", "latency")),
        ("big", ("params",)),
        ("big", ("latency",)),
        ("uneven", ("params",)),
    ],
)
def test_a_thousand_draws_from_a_hundredth_of_the_range(name, quantities):
    budget = band(name, *quantities, share=0.01)
    began = time.perf_counter()
    counted = BudgetedSpace(SPACES[name], budget, COSTS[name])
    rng = random.Random(0)
    drawn = [counted.sample(rng) for _ in range(1000)]
    assert time.perf_counter() - began < 12  # about 0.3 alone; rejection would take minutes
    assert all(counted.contains(one) for one in drawn)
    assert len(set(drawn)) > 900


@pytest.mark.slow
@pytest.mark.parametrize("name", ["big", "uneven"])
@pytest.mark.parametrize("share", [0.2, 0.6, 5])
def test_big_spaces_can_be_used_up_under_limits_of_all_quantities(name, share):
    space, costs = SPACES[name], COSTS[name]
    whole = BudgetedSpace(space, Budget(), costs)
    limits = {}
    for what in QUANTITIES:
        low, high = whole.cost_range(what)
        limits[f"max_{what}"] = type(high)(low + share * (high - low))
    counted = BudgetedSpace(space, Budget(**limits), costs, min_use=0.95)
    rng = random.Random(0)
    drawn = [counted.sample(rng) for _ in range(30)]
    assert all(counted.contains(one) for one in drawn)
    ends = {what: whole.cost_range(what)[1] for what in QUANTITIES}
    for one in drawn:
        amounts = costs.of(one)
        assert any(
            amounts[what] >= 0.9 * min(limits[f"max_{what}"], ends[what]) for what in QUANTITIES
        )


def test_every_patch_size_within_a_budget_is_drawn_as_often_as_the_others():
    """Though a limit on operations leaves far more networks of coarse patches."""
    space, rng = PRESETS["digits"], random.Random(0)
    finest = min(macs(one) for one in space.uniforms() if one.patch_size == 4)
    budget = Budget(max_macs=3 * finest)
    for use in (0.0, 0.9):
        counted = BudgetedSpace(space, budget, min_use=use)
        drawn = Counter(counted.sample(rng).patch_size for _ in range(400))
        assert 150 < drawn[4] < 250
        assert drawn[4] + drawn[8] == 400
    coarse = BudgetedSpace(space, Budget(max_macs=finest - 1))
    assert {coarse.sample(rng).patch_size for _ in range(50)} == {8}


def test_what_uses_less_than_its_share_by_one_is_left_out():
    space, budget = PRESETS["demo"], Budget(max_params=200_000)
    within = BudgetedSpace(space, budget)
    most = within.cost_range("params")[1]
    for one in sorted(within.uniforms(), key=params)[-5:-1]:
        used = BudgetedSpace(space, budget, min_use=(params(one) + 0.5) / most)
        assert not used.contains(one)
        assert one not in used.uniforms()
        assert used.cost_range("params")[0] > params(one)
        used = BudgetedSpace(space, budget, min_use=(params(one) - 0.5) / most)
        assert used.contains(one)
        assert used.cost_range("params")[0] == params(one)


def test_networks_at_the_end_of_one_share_and_within_another_count_once():
    space = PRESETS["demo"].replace(depth=(3,))
    budget = Budget(max_params=150_000, max_macs=8_000_000)
    within = list(BudgetedSpace(space, budget))
    most, most_macs, both = max(map(params, within)), max(map(macs, within)), 0
    for one in within[:: len(within) // 10]:
        share = (params(one) - 0.5) / most  # of parameters, exactly those of this network
        enough = [
            other
            for other in within
            if params(other) >= params(one) or macs(other) >= share * most_macs
        ]
        counted = BudgetedSpace(space, budget, min_use=share)
        assert counted.size() == len(enough)
        assert Counter(counted) == Counter(enough)
        both += any(
            params(other) == params(one) and macs(other) >= share * most_macs for other in within
        )
    assert both > 5


@pytest.mark.parametrize("name", ["big", "uneven"])
def test_joint_bands_of_big_spaces_can_be_drawn_from(name):
    budget = band(name, "params", "macs", "latency", share=0.02)
    counted = BudgetedSpace(SPACES[name], budget, COSTS[name])
    assert not counted.exact
    rng = random.Random(0)
    drawn = {counted.sample(rng) for _ in range(10)}
    assert len(drawn) == 10
    assert all(budget.allows(COSTS[name].of(one)) for one in drawn)
    for what in ("params", "macs", "latency"):
        low, high = counted.cost_range(what)
        assert budget.limits(what)[0] <= low <= high <= budget.limits(what)[1]
