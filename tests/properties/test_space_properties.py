"""What holds for every search space: on small random ones, against enumeration."""

import itertools
import json
import math
import random
from collections import Counter
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples import examples
from masktas.errors import BudgetError, SpaceError
from masktas.space import (
    QUANTITIES,
    Architecture,
    Budget,
    BudgetedSpace,
    Costs,
    SearchSpace,
    crossover,
    format_quantity,
    macs,
    mutate,
    params,
    parse_quantity,
)
from masktas.space.exact import tables
from measured import latency_model

few = examples(60)
seeds = st.integers(0, 2**32).map(random.Random)
probabilities = st.one_of(st.sampled_from([0, 1]), st.floats(0, 1))


def choices(values, most):
    return st.lists(values, min_size=1, max_size=most, unique=True).map(tuple)


@st.composite
def spaces(draw):
    """Draw a space of at most 1,600 architectures, some ratios giving MLPs of equal width."""
    patches = draw(st.sampled_from([(1,), (2,), (3,), (4,), (1, 2), (1, 3), (2, 3), (2, 4)]))
    unit = math.lcm(*patches)
    least = 1 if len(patches) == 1 else 4
    grid = draw(st.tuples(*[st.integers(least, least + 2)] * 2))
    return SearchSpace(
        "drawn",
        draw(choices(st.integers(2, 12), 3)),
        draw(choices(st.integers(1, 3), 3)),
        draw(choices(st.integers(1, 5), 2)),
        draw(choices(st.sampled_from([0.5, 1, 1.1, 1.25, 1.5, 2, 3.5, 4.0]), 3)),
        head_dim=draw(st.integers(1, 8)),
        image_size=(grid[0] * unit, grid[1] * unit),
        patch_size=patches,
        in_channels=draw(st.sampled_from([1, 3])),
        num_classes=draw(st.sampled_from([None, 0, 7])),
    )


def enumerate_all(space):
    """Yield every architecture of a space, one after another."""
    for patch, width, depth in itertools.product(space.patch_size, space.embed_dim, space.depth):
        for heads in itertools.product(space.num_heads, repeat=depth):
            for ratios in itertools.product(space.mlp_ratio, repeat=depth):
                yield space.build(width, heads, ratios, patch_size=patch)


@st.composite
def worlds(draw):
    """Draw a space, its architectures with what they cost, and limits at or beside real costs."""
    space = draw(spaces())
    costs = Costs(
        draw(st.sampled_from(["fp32", "fp16", "bf16"])),
        latency_model(space, random.Random(draw(st.integers(0, 99)))),
    )
    every = {one: costs.of(one) for one in enumerate_all(space)}
    limits = {}
    for what in draw(st.sets(st.sampled_from(QUANTITIES), max_size=4)):
        real = sorted({amounts[what] for amounts in every.values()})
        step = 0.0001 if what == "latency" else 1
        near = st.builds(
            lambda amount, by, step=step: amount + by * step,
            st.sampled_from(real),
            st.sampled_from([0, 0, 0, -1, 1]),
        )
        low, high = draw(st.none() | near), draw(st.none() | near)
        if low is not None and high is not None:
            low, high = min(low, high), max(low, high)
        limits |= {f"min_{what}": low, f"max_{what}": high}
    return space, costs, every, Budget(**limits)


def within(every, budget):
    """Return those of a world that are within the budget."""
    return {one: amounts for one, amounts in every.items() if budget.allows(amounts)}


# --- spaces


@few
@given(spaces())
def test_size_counts_every_architecture_once(space):
    every = list(enumerate_all(space))
    assert space.size() == len(every) == len(set(every))


@few
@given(spaces())
def test_a_space_survives_json(space):
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


@few
@given(spaces(), seeds)
def test_samples_are_of_the_space_and_survive_json(space, rng):
    one = space.sample(rng)
    assert space.check(one) is None
    back = Architecture.from_dict(json.loads(json.dumps(one.to_dict())))
    assert back == one
    assert back.digest() == one.digest()


@few
@given(spaces())
def test_smallest_and_largest_bound_every_cost(space):
    every = [macs(one) for one in enumerate_all(space)]
    assert (min(every), max(every)) == (macs(space.smallest), macs(space.largest))
    for patch in space.patch_size:
        of_patch = space.replace(patch_size=(patch,))
        for cost in (params, macs):
            costs = [cost(one) for one in enumerate_all(of_patch)]
            assert min(costs) == cost(of_patch.smallest)
            assert max(costs) == cost(of_patch.largest)


@few
@given(spaces(), spaces(), seeds)
def test_check_agrees_with_enumeration(space, other, rng):
    for one in (space.sample(rng), other.sample(rng)):
        expected = one.replace(num_classes=space.num_classes) in set(enumerate_all(space))
        assert (space.check(one) is None) is expected


@few
@given(spaces(), seeds)
def test_digests_tell_architectures_apart(space, rng):
    some = {space.sample(rng) for _ in range(30)}
    assert len({one.digest() for one in some}) == len(some)


# --- budgets


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


# --- quantities


@examples(300)
@example(999_999)
@given(st.integers(1, 10**16))
def test_what_is_written_can_be_read(value):
    text = format_quantity(value)
    assert parse_quantity(text) == pytest.approx(value, rel=0.005)
    assert parse_quantity(str(value)) == pytest.approx(value, rel=1e-15)


@examples(300)
@example("9e999")
@given(st.text(alphabet="0123456789.eEkKmMgGtTbB+-_, naif", max_size=12))
def test_any_text_is_a_count_or_refused(text):
    try:
        value = parse_quantity(text)
    except BudgetError:
        return
    assert type(value) is int
    assert value >= 1


# --- mutation and crossover


@examples(200)
@given(spaces(), seeds, probabilities, probabilities)
def test_mutation_never_leaves_the_space(space, rng, depth_probability, block_probability):
    one = space.sample(rng)
    for _ in range(5):
        one = mutate(
            one,
            space,
            rng,
            depth_probability=depth_probability,
            block_probability=block_probability,
        )
        space.require(one)
        assert len(one.num_heads) == len(one.mlp_ratio) == one.depth
        assert one.num_classes == space.num_classes
        assert Architecture.from_dict(one.to_dict()) == one


@few
@given(spaces(), seeds)
def test_mutation_without_a_chance_returns_the_parent(space, rng):
    one = space.sample(rng)
    assert mutate(one, space, rng, depth_probability=0, block_probability=0) == one


@examples(200)
@given(spaces(), seeds)
def test_crossing_takes_every_gene_from_one_of_the_parents(space, rng):
    first, second = space.sample(rng), space.sample(rng)
    if first.depth != second.depth:
        with pytest.raises(SpaceError, match="equal depth"):
            crossover(first, second, space, rng)
        return
    child = crossover(first, second, space, rng)
    space.require(child)
    assert child.depth == first.depth == len(child.mlp_ratio)
    assert child.embed_dim in (first.embed_dim, second.embed_dim)
    assert child.patch_size in (first.patch_size, second.patch_size)
    for genes in ("num_heads", "mlp_ratio"):
        for mine, *theirs in zip(
            getattr(child, genes), getattr(first, genes), getattr(second, genes), strict=True
        ):
            assert mine in theirs


@few
@given(spaces(), st.integers(0, 2**32))
def test_variation_depends_on_the_seed_alone(space, seed):
    def children():
        rng = random.Random(seed)
        first, second = space.sample(rng), space.sample(rng)
        mutant = mutate(first, space, rng)
        return mutant, crossover(first, first, space, rng), crossover(second, second, space, rng)

    assert children() == children()
