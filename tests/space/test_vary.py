"""Mutation and crossover on spaces large enough that chance cannot hide a mistake."""

import random

import pytest

from masktas.errors import SpaceError
from masktas.space import SearchSpace, crossover, mutate
from masktas.space.vary import distance, neighbours

SPACE = SearchSpace.preset("micro")
DRAWS = 4000


def parent(depth, seed=0):
    """Return an architecture of that depth."""
    space = SPACE.replace(depth=(depth,))
    return space.sample(random.Random(seed))


def children(of, depth_probability, block_probability):
    rng = random.Random(1)
    return [
        mutate(
            of, SPACE, rng,
            depth_probability=depth_probability, block_probability=block_probability,
        )
        for _ in range(DRAWS)
    ]  # fmt: skip


def share(flags):
    flags = list(flags)
    return sum(flags) / len(flags)


def test_no_chance_of_change_leaves_the_parent():
    assert set(children(parent(5), 0, 0)) == {parent(5)}


def test_depth_and_width_are_redrawn_with_the_depth_probability():
    of = parent(5)
    born = children(of, 0.4, 0)
    # redrawn with 0.4, and then different in two of three draws
    assert share(one.depth != 5 for one in born) == pytest.approx(0.4 * 2 / 3, abs=0.03)
    assert share(one.embed_dim != of.embed_dim for one in born) == pytest.approx(
        0.4 * 2 / 3, abs=0.03
    )
    both = share(one.depth != 5 and one.embed_dim != of.embed_dim for one in born)
    assert both == pytest.approx((0.4 * 2 / 3) ** 2, abs=0.02)


def test_each_gene_is_redrawn_with_the_block_probability():
    of = parent(5)
    born = children(of, 0, 0.2)
    assert {(one.depth, one.embed_dim) for one in born} == {(5, of.embed_dim)}
    for block in range(5):
        heads = share(one.num_heads[block] != of.num_heads[block] for one in born)
        ratios = share(one.mlp_ratio[block] != of.mlp_ratio[block] for one in born)
        assert heads == pytest.approx(0.2 * 3 / 4, abs=0.03)
        assert ratios == pytest.approx(0.2 * 2 / 3, abs=0.03)


def test_the_defaults_are_the_papers():
    of = parent(5)
    explicit, default = random.Random(7), random.Random(7)
    for _ in range(200):
        assert mutate(of, SPACE, default) == mutate(
            of, SPACE, explicit, depth_probability=0.4, block_probability=0.2
        )


def test_a_shallower_child_keeps_the_first_blocks():
    of = parent(6)
    born = [one for one in children(of, 1, 0) if one.depth < 6]
    assert {one.depth for one in born} == {4, 5}
    for one in born:
        assert one.num_heads == of.num_heads[: one.depth]
        assert one.mlp_ratio == of.mlp_ratio[: one.depth]


def test_a_deeper_child_gets_any_new_blocks_at_its_end():
    of = parent(4)
    born = [one for one in children(of, 1, 0) if one.depth > 4]
    assert {one.depth for one in born} == {5, 6}
    for one in born:
        assert one.num_heads[:4] == of.num_heads
        assert one.mlp_ratio[:4] == of.mlp_ratio
    assert {one.num_heads[4] for one in born} == set(SPACE.num_heads)
    assert {one.mlp_ratio[4] for one in born} == set(SPACE.mlp_ratio)


def test_certain_change_redraws_everything():
    born = children(parent(5), 1, 1)
    assert {one.depth for one in born} == set(SPACE.depth)
    assert {one.embed_dim for one in born} == set(SPACE.embed_dim)
    assert {heads for one in born for heads in one.num_heads} == set(SPACE.num_heads)


def test_each_gene_of_a_child_is_from_either_parent_evenly():
    first = SPACE.build(96, (2,) * 5, (2,) * 5)
    second = SPACE.build(160, (5,) * 5, (4,) * 5)
    rng = random.Random(2)
    born = [crossover(first, second, SPACE, rng) for _ in range(DRAWS)]
    assert {one.depth for one in born} == {5}
    assert {one.embed_dim for one in born} == {96, 160}
    assert share(one.embed_dim == 96 for one in born) == pytest.approx(0.5, abs=0.04)
    for block in range(5):
        assert {one.num_heads[block] for one in born} == {2, 5}
        assert {one.mlp_ratio[block] for one in born} == {2, 4}
        assert share(one.num_heads[block] == 2 for one in born) == pytest.approx(0.5, abs=0.04)
        assert share(one.mlp_ratio[block] == 2 for one in born) == pytest.approx(0.5, abs=0.04)
    # heads and ratio of one block are two genes
    assert share(one.num_heads[0] == 2 and one.mlp_ratio[0] == 4 for one in born) > 0.2


TWO = SPACE.replace(patch_size=(4, 8))


def test_the_patch_size_is_redrawn_with_the_depth_probability_and_after_everything_else():
    of = TWO.build(128, (3,) * 5, (3,) * 5, patch_size=8)
    chances = {"depth_probability": 0.4, "block_probability": 0.2}
    rng = random.Random(1)
    born = [mutate(of, TWO, rng, **chances) for _ in range(DRAWS)]
    assert share(one.patch_size == 4 for one in born) == pytest.approx(0.4 / 2, abs=0.03)
    alone = mutate(of, TWO, random.Random(1), depth_probability=0, block_probability=1)
    assert alone.patch_size == 8
    for seed in range(50):  # the other genes are those of a space with one patch size
        one = mutate(of, TWO, random.Random(seed), **chances)
        other = mutate(of.replace(patch_size=4), SPACE, random.Random(seed), **chances)
        assert one.replace(patch_size=4) == other


def test_a_child_has_the_patch_size_of_either_parent_and_other_genes_as_without():
    first = TWO.build(96, (2,) * 5, (2,) * 5, patch_size=4)
    second = TWO.build(160, (5,) * 5, (4,) * 5, patch_size=8)
    rng = random.Random(2)
    born = [crossover(first, second, TWO, rng) for _ in range(DRAWS)]
    assert share(one.patch_size == 4 for one in born) == pytest.approx(0.5, abs=0.04)
    assert share(one.patch_size == 4 and one.embed_dim == 160 for one in born) > 0.2
    coarse = crossover(first.replace(patch_size=8), second, TWO, random.Random(3))
    fine = crossover(first, second.replace(patch_size=4), TWO, random.Random(3))
    assert coarse.patch_size == 8
    assert coarse.replace(patch_size=4) == fine


def test_the_next_patch_sizes_are_neighbours():
    space = SPACE.replace(patch_size=(2, 4, 8))
    of = parent(5)
    around = list(neighbours(of, space))
    assert [one for one in around if one.patch_size != 4] == [
        of.replace(patch_size=2),
        of.replace(patch_size=8),
    ]
    assert [one for one in around if one.patch_size == 4] == list(neighbours(of, SPACE))
    assert distance(of, of.replace(patch_size=8)) == 1
    assert distance(of.replace(embed_dim=96), of.replace(embed_dim=128, patch_size=2)) == 2
    coarse = of.replace(patch_size=8)
    assert coarse in set(neighbours(of.replace(patch_size=4), space))
    assert all(of in set(neighbours(one, space)) for one in around)


def test_parents_of_unequal_depth_are_refused():
    with pytest.raises(SpaceError, match=r"depth 4 and 5 cannot be crossed.*equal depth"):
        crossover(parent(4), parent(5), SPACE, random.Random(0))


def test_a_parent_crossed_with_itself_is_itself():
    assert crossover(parent(5), parent(5), SPACE, random.Random(0)) == parent(5)


@pytest.mark.parametrize(("depth", "more"), [(4, 12), (5, 12 + 1), (6, 1)])
def test_neighbours_are_all_that_is_one_step_away(depth, more):
    of = parent(depth)
    around = list(neighbours(of, SPACE))
    widths = sum(one.embed_dim != of.embed_dim for one in around)
    assert widths == (1 if of.embed_dim in (96, 160) else 2)
    assert len(set(around)) == len(around) == depth * (3 + 2) + widths + more
    assert of not in around
    assert all(SPACE.check(one) is None for one in around)
    for one in around:
        if one.depth == depth:
            assert distance(one, of) == 1
        else:
            assert abs(one.depth - depth) == 1
            assert distance(one, of) == 2


def test_being_neighbours_is_mutual():
    of = parent(5)
    for one in neighbours(of, SPACE):
        assert of in set(neighbours(one, SPACE))


def test_depths_far_apart_are_neighbours_with_new_blocks_alike():
    space = SPACE.replace(depth=(2, 5))
    of = space.uniform(96, 2, 3, 2)
    deeper = [one for one in neighbours(of, space) if one.depth == 5]
    assert len(deeper) == 12
    for one in deeper:
        assert one.num_heads[:2] == (3, 3)
        assert len(set(one.num_heads[2:])) == len(set(one.mlp_ratio[2:])) == 1
    (shallower,) = [one for one in neighbours(deeper[0], space) if one.depth == 2]
    assert shallower == of


def test_the_only_architecture_has_no_neighbours():
    space = SearchSpace("one", (8,), (2,), (1,), (1,), head_dim=4)
    assert list(neighbours(space.smallest, space)) == []


def test_distance_counts_genes():
    one = SPACE.build(96, (2, 3, 4, 5), (2, 2, 3, 3))
    assert distance(one, one) == 0
    assert distance(one, one.replace(embed_dim=128)) == 1
    assert distance(one, one.replace(num_heads=(2, 3, 5, 4))) == 2
    longer = SPACE.build(96, (2, 3, 4, 5, 2, 2), (2, 2, 3, 3, 2, 2))
    assert distance(one, longer) == distance(longer, one) == 4
