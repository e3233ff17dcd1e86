"""Simple shapes of whole networks, and moves from one shape to another (SPEC 6.3)."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from masktas.space.architecture import Architecture
from masktas.space.space import SearchSpace

HOUSE_RATIO = 4
HOUSE_DEPTH = 12  # of the published tiny, small and base ViTs
SMALL_IMAGE, SMALL_DEPTH = 64, 6  # images of up to 64 pixels have shallower networks
FINE_WEIGHT = 0.25  # of heads and ratio in `spread`, beside patch size, width and depth

Choice = TypeVar("Choice", int, float)


def house_shape(space: SearchSpace, allows: Callable[[Architecture], bool]) -> Architecture | None:
    """Return the shape that an expert takes without measuring anything, as wide as is allowed.

    Finest patches, MLP ratio 4, `D / head_dim` heads, and the depth of published networks: 12, or 6
    for images of up to 64 pixels; each the nearest choice of the space. If no width is allowed with
    the finest patches, coarser ones are tried.

    Args:
        space: the space.
        allows: whether an architecture meets the budget.

    Returns:
        The architecture; None if none of this shape is allowed.
    """
    depth = SMALL_DEPTH if max(space.image_size) <= SMALL_IMAGE else HOUSE_DEPTH
    for patch_size, width in itertools.product(space.patch_size, reversed(space.embed_dim)):
        one = space.uniform(
            width,
            nearest(space.depth, depth),
            nearest(space.num_heads, width / space.head_dim),
            nearest(space.mlp_ratio, HOUSE_RATIO),
            patch_size=patch_size,
        )
        if allows(one):
            return one
    return None


def draw_ramp(space: SearchSpace, rng: random.Random) -> Architecture | None:
    """Draw a ramp: heads and MLP ratio are linear from the first to the last block.

    Both ends are drawn from the choices, and values between them are rounded to the nearest choice.

    Returns:
        The architecture; None if its blocks are all equal.
    """
    patch_size = rng.choice(space.patch_size)
    width, depth = rng.choice(space.embed_dim), rng.choice(space.depth)
    heads = _ramp(space.num_heads, depth, rng)
    ratios = _ramp(space.mlp_ratio, depth, rng)
    if len(set(heads)) == len(set(ratios)) == 1:
        return None
    return space.build(width, heads, ratios, patch_size=patch_size)


def _ramp(choices: tuple[Choice, ...], depth: int, rng: random.Random) -> tuple[Choice, ...]:
    first, last = rng.choice(choices), rng.choice(choices)
    steps = max(1, depth - 1)
    return tuple(nearest(choices, first + (last - first) * block / steps) for block in range(depth))


def shape_moves(
    one: Architecture, space: SearchSpace, rng: random.Random
) -> Iterator[Architecture]:
    """Yield, in random order, networks of another shape at about equal cost.

    The blocks are stretched or thinned out to the next smaller or larger depth, and the width
    changes so that `N L D^2` stays about equal; with other patches, to any depth. Then the heads of
    all blocks, and the MLP ratios of all blocks, stay or move by one step.
    """
    moves = list(itertools.product(_outlines(one, space), (-1, 0, 1), (-1, 0, 1)))
    rng.shuffle(moves)
    for (patch_size, width, depth), more_heads, more_ratio in moves:
        source = [block * one.depth // depth for block in range(depth)]
        heads = tuple(_stepped(space.num_heads, one.num_heads[i], more_heads) for i in source)
        ratios = tuple(_stepped(space.mlp_ratio, one.mlp_ratio[i], more_ratio) for i in source)
        moved = space.build(width, heads, ratios, patch_size=patch_size)
        if moved != one:
            yield moved


def _outlines(one: Architecture, space: SearchSpace) -> Iterator[tuple[int, int, int]]:
    """Yield patch size, width and depth of networks that cost about as much."""
    for patch_size in space.patch_size:
        patches = (one.patch_size / patch_size) ** 2  # relative to its own
        same = patch_size == one.patch_size
        for depth in _around(space.depth, one.depth) if same else space.depth:
            equal = one.embed_dim * math.sqrt(one.depth / depth / patches)
            for width in _around(space.embed_dim, nearest(space.embed_dim, equal)):
                yield patch_size, width, depth


def spread(networks: Sequence[Architecture], count: int) -> list[Architecture]:
    """Return up to `count` of some networks, far apart in patch size, width and depth.

    The first is the one in the middle; each further one is the farthest from all before it.
    Distances are between ranks; heads and MLP ratio of the first block count a quarter.
    """
    if len(networks) <= count:
        return list(networks)
    places = list(zip(*(_ranks(column) for column in zip(*map(_genes, networks), strict=True)),
                      strict=True))  # fmt: skip
    places = [(*place[:3], *(FINE_WEIGHT * fine for fine in place[3:])) for place in places]
    middle = (0.5, 0.5, 0.5, FINE_WEIGHT / 2, FINE_WEIGHT / 2)
    at = min(range(len(places)), key=lambda index: math.dist(places[index], middle))
    chosen, apart = [at], [math.inf] * len(places)
    while len(chosen) < count:
        here = places[chosen[-1]]
        apart = [min(far, math.dist(here, its)) for far, its in zip(apart, places, strict=True)]
        chosen.append(max(range(len(places)), key=apart.__getitem__))
    return [networks[index] for index in chosen[:count]]


def _genes(one: Architecture) -> tuple[float, ...]:
    return one.patch_size, one.embed_dim, one.depth, one.num_heads[0], one.mlp_ratio[0]


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value among the distinct ones, from 0 to 1."""
    order = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return [order[value] / max(1, len(order) - 1) for value in values]


def nearest(choices: tuple[Choice, ...], wanted: float) -> Choice:
    """Return the choice nearest to a value; of two the smaller."""
    return min(choices, key=lambda choice: abs(choice - wanted))


def _around(choices: tuple[int, ...], choice: int) -> tuple[int, ...]:
    """Return a choice with its neighbours."""
    at = choices.index(choice)
    return choices[max(0, at - 1) : at + 2]


def _stepped(choices: tuple[Choice, ...], choice: Choice, steps: int) -> Choice:
    """Return the choice this many steps further, or the last one in that direction."""
    return choices[min(max(choices.index(choice) + steps, 0), len(choices) - 1)]
