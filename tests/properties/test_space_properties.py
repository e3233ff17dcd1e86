"""What holds for every search space: on small random ones, against enumeration."""

import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drawn_spaces import enumerate_all, few, seeds, spaces
from examples import examples
from masktas.errors import BudgetError, SpaceError
from masktas.space import (
    Architecture,
    SearchSpace,
    crossover,
    format_quantity,
    macs,
    mutate,
    params,
    parse_quantity,
)

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


probabilities = st.one_of(st.sampled_from([0, 1]), st.floats(0, 1))


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
