"""What holds for every budget of every space: counts, ends and draws, against enumeration."""

import random
from collections import Counter
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawn_spaces import enumerate_all, few, seeds, within, worlds
from examples import examples
from masktas.errors import BudgetError
from masktas.space import QUANTITIES, Budget, BudgetedSpace, Costs, SearchSpace
from masktas.space.exact import tables
from measured import latency_model

# --- counts and ends


@examples(150)
@given(worlds(), seeds)
def test_a_budgeted_space_agrees_with_enumeration(world, rng):
    space, costs, every, budget = world
    fitting = within(every, budget)
    if not fitting:
        with pytest.raises(BudgetError, match="No network of space drawn has at"):
            BudgetedSpace(space, budget, costs)
        return
    counted = BudgetedSpace(space, budget, costs)
    assert counted.exact
    assert counted.size() == len(fitting)
    for what in QUANTITIES:
        amounts = [amounts[what] for amounts in fitting.values()]
        assert counted.cost_range(what) == (min(amounts), max(amounts))
    assert {one for one in every if counted.contains(one)} == set(fitting)
    assert sorted(map(repr, counted)) == sorted(map(repr, fitting))
    assert list(counted) == list(BudgetedSpace(space, budget, costs))
    for sample in (counted.sample, counted.sample_evenly):
        assert {sample(rng) for _ in range(20)} <= set(fitting)
    most = max(amounts["macs"] for amounts in fitting.values())
    assert fitting[counted.costliest(rng)]["macs"] == most


@examples(80)
@given(worlds(), seeds, st.sampled_from([(0, 0), (40, 10**6), (10**6, 40), (10**6, 400)]))
def test_where_cells_are_not_exact_nothing_is_lost_and_no_draw_breaks_the_budget(world, rng, most):
    space, costs, every, budget = world
    fitting = within(every, budget)
    with mock.patch.multiple(tables, MAX_ADDITIONS=most[0], MAX_PAIRS=most[1]):
        try:
            counted = BudgetedSpace(space, budget, costs)
        except BudgetError as error:
            unlucky = "was found in 1,000 draws that has" in str(error)
            if fitting and not unlucky:
                raise
            return
        assert counted.size() >= len(fitting) > 0
        assert sorted(map(repr, counted)) == sorted(map(repr, fitting))
        for what in QUANTITIES:
            amounts = [amounts[what] for amounts in fitting.values()]
            low, high = counted.cost_range(what)
            assert low <= min(amounts)
            assert max(amounts) <= high
        assert {one for one in every if counted.contains(one)} == set(fitting)
        for sample in (counted.sample, counted.sample_evenly, counted.costliest):
            assert {sample(rng) for _ in range(5)} <= set(fitting)


@few
@given(worlds())
def test_largest_uniform_agrees_with_enumeration(world):
    space, costs, every, budget = world
    fitting = within(every, budget)
    if not fitting:
        return
    first = next((what for what in QUANTITIES if budget.limits(what)[1] is not None), "params")
    alike = {
        one: (amounts[first], amounts["params"], amounts["macs"])
        for one, amounts in fitting.items()
        if len(set(one.num_heads)) == len(set(one.mlp_ratio)) == 1
    }
    found = BudgetedSpace(space, budget, costs).largest_uniform()
    if alike:
        assert alike[found] == max(alike.values())
    else:
        assert found is None


def using(fitting, budget, min_use):
    """Return those of a world that use enough of a limit, by the definition (SPEC 6.2)."""
    upper = [what for what in QUANTITIES if budget.limits(what)[1] is not None]
    if not (upper and fitting):
        return fitting
    most = {what: max(amounts[what] for amounts in fitting.values()) for what in upper}
    return {
        one: amounts
        for one, amounts in fitting.items()
        if any(amounts[what] >= min_use * most[what] * (1 - 1e-12) for what in upper)
    }


shares = st.sampled_from([0.3, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999])


@examples(150)
@given(worlds(), shares, seeds)
def test_what_uses_the_budget_agrees_with_enumeration(world, min_use, rng):
    space, costs, every, budget = world
    fitting = within(every, budget)
    if not fitting:
        with pytest.raises(BudgetError):
            BudgetedSpace(space, budget, costs, min_use=min_use)
        return
    used = using(fitting, budget, min_use)
    counted = BudgetedSpace(space, budget, costs, min_use=min_use)
    assert counted.exact
    assert counted.size() == len(used) > 0
    for what in QUANTITIES:
        amounts = [amounts[what] for amounts in used.values()]
        assert counted.cost_range(what) == (min(amounts), max(amounts))
    assert {one for one in every if counted.contains(one)} == set(used)
    assert {one for one in every if counted.allows(one)} == set(fitting)
    assert sorted(map(repr, counted)) == sorted(map(repr, used))
    for sample in (counted.sample, counted.sample_evenly):
        assert {sample(rng) for _ in range(20)} <= set(used)
    most = max(amounts["macs"] for amounts in used.values())
    assert used[counted.costliest(rng)]["macs"] == most
    alike = {one for one in every if len({*zip(one.num_heads, one.mlp_ratio, strict=True)}) == 1}
    assert set(counted.uniforms()) == alike & set(used)
    if alike & set(fitting):
        assert counted.largest_uniform() in (alike & set(used) or alike & set(fitting))


@examples(60)
@given(worlds(), shares, seeds, st.sampled_from([(0, 0), (40, 10**6), (10**6, 40)]))
def test_using_the_budget_never_breaks_it_where_cells_are_not_exact(world, min_use, rng, most):
    space, costs, every, budget = world
    fitting = within(every, budget)
    with mock.patch.multiple(tables, MAX_ADDITIONS=most[0], MAX_PAIRS=most[1]):
        try:
            counted = BudgetedSpace(space, budget, costs, min_use=min_use)
        except BudgetError as error:
            unlucky = "1,000 draws" in str(error)
            if fitting and not unlucky:
                raise
            return
        found = {one for one in every if counted.contains(one)}
        assert using(fitting, budget, min_use).keys() <= found <= set(fitting)
        assert sorted(map(repr, counted)) == sorted(map(repr, found))
        assert counted.size() >= len(found)
        for what in QUANTITIES:
            low, high = counted.cost_range(what)
            assert all(low <= every[one][what] <= high for one in found)
        for sample in (counted.sample, counted.sample_evenly, counted.costliest):
            assert {sample(rng) for _ in range(5)} <= found


# --- draws


@examples(6)
@given(worlds(), shares, st.integers(0, 2**32))
def test_draws_that_use_the_budget_are_those_of_the_space_that_do(world, min_use, seed):
    space, costs, every, budget = world
    used = using(within(every, budget), budget, min_use)
    if used:
        counted = BudgetedSpace(space, budget, costs, min_use=min_use)
        assert_draws_are_those_of(counted, used, seed)


def assert_draws_are_those_of(counted, fitting, seed):
    """Hold a sampler against its definition: draws of the space that meet the budget.

    Patch sizes are equally likely, whatever share of their networks meets it.
    """
    space = counted.space
    plain = {one: (len(space.num_heads) * len(space.mlp_ratio)) ** -one.depth for one in fitting}
    of_size = Counter()
    for one, share in plain.items():
        of_size[one.patch_size] += share
    weight = {one: share / of_size[one.patch_size] for one, share in plain.items()}
    total, draws, rng = sum(weight.values()), 3000, random.Random(seed)
    seen = Counter(counted.sample(rng) for _ in range(draws))
    chi_square = sum(
        (seen[one] - draws * share / total) ** 2 / (draws * share / total)
        for one, share in weight.items()
    )
    # Seven deviations, and room for cells of few draws: a wrong weight is far beyond.
    freedom = len(weight)
    assert chi_square < freedom + 7 * (2 * freedom) ** 0.5 + 20


@examples(6)
@given(worlds(), st.integers(0, 2**32))
def test_draws_within_a_budget_are_those_of_the_space_that_meet_it(world, seed):
    space, costs, every, budget = world
    fitting = within(every, budget)
    if fitting:
        assert_draws_are_those_of(BudgetedSpace(space, budget, costs), fitting, seed)


@pytest.mark.parametrize("most", [(10**6, 10**6), (0, 0), (10**6, 60)])
@pytest.mark.parametrize(("image_size", "patches"), [((4, 8), (4,)), ((8, 16), (1, 2))])
def test_draws_within_limits_of_all_quantities(most, image_size, patches):
    space = SearchSpace(
        "mine", (5, 9), (1, 2, 3), (1, 2, 4), (1.2, 1.3, 2),
        head_dim=2, image_size=image_size, patch_size=patches, in_channels=1, num_classes=3,
    )  # fmt: skip
    costs = Costs(latency=latency_model(space, random.Random(0)))
    every = {one: costs.of(one) for one in enumerate_all(space)}
    middle = costs.of(space.uniform(9, 2, 2, 2, patch_size=max(patches)))
    budget = Budget(
        max_params=int(middle["params"] * 1.1), min_macs=int(middle["macs"] * 0.7),
        max_latency=middle["latency"] * 1.05, max_size=int(middle["size"] * 1.3),
        min_memory=int(middle["memory"] * 0.9),
    )  # fmt: skip
    fitting = within(every, budget)
    assert 20 < len(fitting) < len(every) / 2
    with mock.patch.multiple(tables, MAX_ADDITIONS=most[0], MAX_PAIRS=most[1]):
        counted = BudgetedSpace(space, budget, costs)
    assert counted.exact is (most[1] == 10**6)
    assert_draws_are_those_of(counted, fitting, 5)


@pytest.mark.parametrize("most", [(10**6, 10**6), (0, 0), (10**6, 60)])
def test_draws_that_use_one_of_several_limits(most):
    space = SearchSpace(
        "mine", (5, 9), (1, 2, 3), (1, 2, 4), (1.2, 1.3, 2),
        head_dim=2, image_size=(4, 8), patch_size=4, in_channels=1, num_classes=3,
    )  # fmt: skip
    costs = Costs(latency=latency_model(space, random.Random(0)))
    every = {one: costs.of(one) for one in enumerate_all(space)}
    middle = costs.of(space.uniform(9, 2, 2, 2))
    budget = Budget(
        max_params=int(middle["params"] * 1.1), max_macs=int(middle["macs"] * 1.05),
        max_latency=middle["latency"] * 1.1,
    )  # fmt: skip
    fitting = within(every, budget)
    with mock.patch.multiple(tables, MAX_ADDITIONS=most[0], MAX_PAIRS=most[1]):
        counted = BudgetedSpace(space, budget, costs, min_use=0.7)
    used = {one: every[one] for one in every if counted.contains(one)}
    assert 20 < len(used) < len(fitting)
    if most == (10**6, 10**6):
        assert used == using(fitting, budget, 0.7)
    assert_draws_are_those_of(counted, used, 5)
