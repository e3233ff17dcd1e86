"""Simple shapes, moves between shapes, and the choice of networks that are far apart."""

import itertools
import random
from collections import Counter

import pytest

from masktas.space import PRESETS, Budget, BudgetedSpace, SearchSpace, macs
from masktas.space.shapes import draw_ramp, house_shape, nearest, shape_moves, spread

WIDE = SearchSpace(
    "wide", (64, 96, 128, 192, 256), (2, 3, 4, 6, 8, 12), (1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 6),
    head_dim=32, image_size=(32, 32), patch_size=(4, 8),
)  # fmt: skip


def test_the_house_shape_is_the_published_one():
    whole = house_shape(PRESETS["small"], lambda one: True)
    assert whole == PRESETS["small"].uniform(448, 12, 7, 4)
    fits = BudgetedSpace(PRESETS["small"], Budget(max_params=23_000_000))
    assert house_shape(PRESETS["small"], fits.allows) == PRESETS["small"].uniform(384, 12, 6, 4)
    assert house_shape(WIDE, lambda one: True) == WIDE.uniform(256, 6, 8, 4, patch_size=4)


def test_the_house_shape_is_as_wide_as_the_budget_allows_and_takes_coarser_patches_last():
    assert house_shape(WIDE, lambda one: one.embed_dim < 200).embed_dim == 192
    coarse = house_shape(WIDE, lambda one: one.patch_size == 8)
    assert coarse == WIDE.uniform(256, 6, 8, 4, patch_size=8)
    assert house_shape(WIDE, lambda one: False) is None
    odd = WIDE.replace(depth=(2, 5, 8), mlp_ratio=(1, 3, 6), num_heads=(1, 2, 5))
    assert house_shape(odd, lambda one: True) == odd.uniform(256, 5, 5, 3)


def test_ramps_are_linear_and_rise_and_fall():
    rng = random.Random(0)
    ramps = [one for _ in range(2000) if (one := draw_ramp(WIDE, rng))]
    directions = Counter()
    for one in ramps:
        assert WIDE.check(one) is None
        for genes, choices in ((one.num_heads, WIDE.num_heads), (one.mlp_ratio, WIDE.mlp_ratio)):
            first, last = genes[0], genes[-1]
            for block, gene in enumerate(genes):
                value = first + (last - first) * block / max(1, one.depth - 1)
                assert abs(gene - value) == min(abs(choice - value) for choice in choices)
        ends = [genes[-1] - genes[0] for genes in (one.num_heads, one.mlp_ratio)]
        assert any(ends)
        directions[tuple((end > 0) - (end < 0) for end in ends)] += 1
    assert len(directions) == 8
    assert {one.patch_size for one in ramps} == {4, 8}
    only = WIDE.replace(num_heads=(2,), mlp_ratio=(3,))
    assert all(draw_ramp(only, rng) is None for _ in range(20))


@pytest.mark.parametrize("seed", range(20))
def test_moves_are_other_networks_of_the_space_each_shape_as_often_as_any(seed):
    rng = random.Random(seed)
    one = WIDE.sample(rng)
    moved = list(shape_moves(one, WIDE, rng))
    assert one not in moved
    assert all(WIDE.check(other) is None for other in moved)
    assert moved != list(shape_moves(one, WIDE, rng))
    assert set(moved) == set(shape_moves(one, WIDE, rng))


def test_a_move_keeps_the_order_of_blocks_and_steps_all_of_them():
    rng = random.Random(0)
    one = WIDE.build(128, (1, 2, 4, 6), (1, 2, 3, 6), patch_size=4)
    moved = set(shape_moves(one, WIDE, rng))
    assert WIDE.build(128, (2, 3, 6, 8), (1, 2, 3, 6), patch_size=4) in moved  # all heads
    assert WIDE.build(128, (1, 2, 4, 6), (1, 1, 2, 4), patch_size=4) in moved  # all ratios
    assert WIDE.build(128, (1, 1, 3, 4), (2, 3, 4, 6), patch_size=4) in moved  # one for the other
    deeper = WIDE.build(96, (1, 1, 2, 4, 4, 6), (1, 1, 2, 3, 3, 6), patch_size=4)
    assert deeper in moved
    assert WIDE.build(256, (1, 2, 4, 6), (1, 2, 3, 6), patch_size=8) in moved
    assert {other.patch_size for other in moved} == {4, 8}
    assert {other.depth for other in moved if other.patch_size == 4} == {3, 4, 6}


def test_depth_against_width_costs_about_as_much():
    one = WIDE.uniform(128, 6, 4, 4, patch_size=4)
    rng = random.Random(0)
    whole = [
        other for other in shape_moves(one, WIDE, rng)
        if other.depth != one.depth and set(other.num_heads) == {4} and set(other.mlp_ratio) == {4}
    ]  # fmt: skip
    assert len({(other.patch_size, other.depth) for other in whole}) == 7
    for key, group in itertools.groupby(
        sorted(whole, key=lambda other: (other.patch_size, other.depth)),
        key=lambda other: (other.patch_size, other.depth),
    ):
        costs = [macs(other) / macs(one) for other in group]
        if key != (8, 2):  # the widest choice is too narrow for two blocks of few patches
            assert min(abs(cost - 1) for cost in costs) < 0.7


def test_spread_networks_are_far_apart():
    uniforms = list(WIDE.uniforms())
    chosen = spread(uniforms, 25)
    assert len(set(chosen)) == 25
    assert chosen == spread(uniforms, 26)[:25]
    for gene in ("patch_size", "embed_dim", "depth"):
        found = Counter(getattr(one, gene) for one in chosen)
        assert len(found) >= len(getattr(WIDE, gene)) - 1
    assert min(Counter(one.patch_size for one in chosen).values()) >= 8
    assert spread(uniforms[:5], 5) == uniforms[:5]
    assert spread([], 5) == []


def test_spread_is_farthest_first_by_the_definition():
    rng = random.Random(0)
    some = rng.sample(list(WIDE.uniforms()), 40)

    def ranks(one):
        genes = (one.patch_size, one.embed_dim, one.depth, one.num_heads[0], one.mlp_ratio[0])
        columns = [
            sorted({(o.patch_size, o.embed_dim, o.depth, o.num_heads[0], o.mlp_ratio[0])[i]
                    for o in some})
            for i in range(5)
        ]  # fmt: skip
        weights = (1, 1, 1, 0.25, 0.25)
        return [
            weight * column.index(gene) / max(1, len(column) - 1)
            for weight, column, gene in zip(weights, columns, genes, strict=True)
        ]

    def apart(one, other):
        return sum((a - b) ** 2 for a, b in zip(ranks(one), ranks(other), strict=True)) ** 0.5

    chosen = spread(some, 6)
    for count in range(1, 6):
        gaps = {one: min(apart(one, other) for other in chosen[:count]) for one in some}
        assert gaps[chosen[count]] == pytest.approx(max(gaps.values()))


def test_the_nearest_choice():
    assert nearest((1, 2, 4), 3) == 2
    assert nearest((1, 2, 4), 3.1) == 4
    assert nearest((1, 2, 4), 100) == 4
