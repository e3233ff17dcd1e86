"""What holds for every search space: on small random ones, against enumeration."""

import itertools
import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from masktas.errors import BudgetError, SpaceError
from masktas.space import (
    Architecture,
    Budget,
    BudgetedSpace,
    SearchSpace,
    crossover,
    format_quantity,
    macs,
    mutate,
    params,
    parse_quantity,
)

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32).map(random.Random)
probabilities = st.one_of(st.sampled_from([0, 1]), st.floats(0, 1))


def choices(values, most):
    return st.lists(values, min_size=1, max_size=most, unique=True).map(tuple)


@st.composite
def spaces(draw):
    """Draw a space of at most 800 architectures, some ratios giving MLPs of equal width."""
    patch = draw(st.integers(1, 4))
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return SearchSpace(
        "drawn",
        draw(choices(st.integers(2, 12), 3)),
        draw(choices(st.integers(1, 3), 3)),
        draw(choices(st.integers(1, 5), 2)),
        draw(choices(st.sampled_from([0.5, 1, 1.1, 1.25, 1.5, 2, 3.5, 4.0]), 3)),
        head_dim=draw(st.integers(1, 8)),
        image_size=(grid[0] * patch, grid[1] * patch),
        patch_size=patch,
        in_channels=draw(st.sampled_from([1, 3])),
        num_classes=draw(st.sampled_from([None, 0, 7])),
    )


def enumerate_all(space):
    """Yield every architecture of a space, one after another."""
    for width, depth in itertools.product(space.embed_dim, space.depth):
        for heads in itertools.product(space.num_heads, repeat=depth):
            for ratios in itertools.product(space.mlp_ratio, repeat=depth):
                yield space.build(width, heads, ratios)


@st.composite
def spaces_with_budgets(draw):
    """Draw a space, its architectures with their costs, and limits at or beside real costs."""
    space = draw(spaces())
    every = [(one, params(one), macs(one)) for one in enumerate_all(space)]
    limits = {}
    for position, what in ((1, "params"), (2, "macs")):
        costs = sorted({entry[position] for entry in every})
        near = st.builds(int.__add__, st.sampled_from(costs), st.integers(-1, 1))
        low, high = draw(st.none() | near), draw(st.none() | near)
        if low is not None and high is not None:
            low, high = min(low, high), max(low, high)
        limits |= {f"min_{what}": low, f"max_{what}": high}
    return space, every, Budget(**limits)


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
    for cost in (params, macs):
        costs = [cost(one) for one in enumerate_all(space)]
        assert min(costs) == cost(space.smallest)
        assert max(costs) == cost(space.largest)


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


@settings(max_examples=150, deadline=None)
@given(spaces_with_budgets(), seeds)
def test_a_budgeted_space_agrees_with_enumeration(drawn, rng):
    space, every, budget = drawn
    fitting = {
        one: costs
        for one, *costs in every
        if budget.allows(dict(zip(("params", "macs"), costs, strict=True)))
    }
    if not fitting:
        with pytest.raises(BudgetError, match="No network of space drawn"):
            BudgetedSpace(space, budget)
        return
    counted = BudgetedSpace(space, budget)
    assert counted.size() == len(fitting)
    for position, what in enumerate(("params", "macs")):
        costs = [entry[position] for entry in fitting.values()]
        assert counted.cost_range(what) == (min(costs), max(costs))
    assert {one for one, *_ in every if counted.contains(one)} == set(fitting)
    assert {counted.sample(rng) for _ in range(20)} <= set(fitting)


@few
@given(spaces_with_budgets())
def test_largest_uniform_agrees_with_enumeration(drawn):
    space, every, budget = drawn
    alike = {
        one: tuple(costs)
        for one, *costs in every
        if budget.allows(dict(zip(("params", "macs"), costs, strict=True)))
        and len(set(one.num_heads)) == len(set(one.mlp_ratio)) == 1
    }
    if not any(
        budget.allows(dict(zip(("params", "macs"), costs, strict=True))) for _, *costs in every
    ):
        return
    found = BudgetedSpace(space, budget).largest_uniform()
    if alike:
        assert alike[found] == max(alike.values())
    else:
        assert found is None


@settings(max_examples=6, deadline=None, derandomize=True)
@given(spaces_with_budgets(), st.integers(0, 2**32))
def test_draws_within_a_budget_are_those_of_the_space_that_meet_it(drawn, seed):
    # Rejection is the definition; the exact sampler must have the same distribution.
    space, every, budget = drawn
    weight = {
        one: (len(space.num_heads) * len(space.mlp_ratio)) ** -one.depth
        for one, *costs in every
        if budget.allows(dict(zip(("params", "macs"), costs, strict=True)))
    }
    if not weight:
        return
    total, draws = sum(weight.values()), 3000
    counted, rng = BudgetedSpace(space, budget), random.Random(seed)
    seen = {}
    for _ in range(draws):
        one = counted.sample(rng)
        seen[one] = seen.get(one, 0) + 1
    chi_square = sum(
        (seen.get(one, 0) - draws * share / total) ** 2 / (draws * share / total)
        for one, share in weight.items()
    )
    # Seven deviations, and room for cells of few draws: a wrong weight is far beyond.
    freedom = len(weight)
    assert chi_square < freedom + 7 * (2 * freedom) ** 0.5 + 20


# --- quantities


@settings(max_examples=300, deadline=None)
@example(999_999)
@given(st.integers(1, 10**16))
def test_what_is_written_can_be_read(value):
    text = format_quantity(value)
    assert parse_quantity(text) == pytest.approx(value, rel=0.005)
    assert parse_quantity(str(value)) == pytest.approx(value, rel=1e-15)


@settings(max_examples=300, deadline=None)
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


@settings(max_examples=200, deadline=None)
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


@settings(max_examples=200, deadline=None)
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
