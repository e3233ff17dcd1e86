"""Mutation, crossover (SPEC 4), neighbours and distance of architectures.

Every result is an architecture of the space.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator

from masktas.errors import SpaceError
from masktas.space.architecture import Architecture
from masktas.space.space import SearchSpace


def mutate(
    parent: Architecture,
    space: SearchSpace,
    rng: random.Random,
    *,
    depth_probability: float = 0.4,
    block_probability: float = 0.2,
) -> Architecture:
    """Redraw the depth with `P_d`, then each block's genes with `P_m`, then the width with `P_d`.

    If the space has several patch sizes, the patch size is redrawn last, with `P_d`. A shallower
    child keeps the first blocks; a deeper one gets new blocks at its end, drawn at random. `P_d` is
    `depth_probability`, `P_m` `block_probability`, applied to each gene.
    """
    depth = parent.depth
    if rng.random() < depth_probability:
        depth = rng.choice(space.depth)

    def genes(of_parent: tuple[float, ...], choices: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(
            rng.choice(choices)
            if index >= len(of_parent) or rng.random() < block_probability
            else of_parent[index]
            for index in range(depth)
        )

    num_heads = genes(parent.num_heads, space.num_heads)
    mlp_ratio = genes(parent.mlp_ratio, space.mlp_ratio)
    embed_dim = parent.embed_dim
    if rng.random() < depth_probability:
        embed_dim = rng.choice(space.embed_dim)
    patch_size = parent.patch_size
    if len(space.patch_size) > 1 and rng.random() < depth_probability:
        patch_size = rng.choice(space.patch_size)
    return space.build(
        embed_dim, tuple(int(heads) for heads in num_heads), mlp_ratio, patch_size=patch_size
    )


def crossover(
    first: Architecture, second: Architecture, space: SearchSpace, rng: random.Random
) -> Architecture:
    """Return a child of two parents of equal depth, each gene from either.

    Raises:
        SpaceError: if their depths differ.
    """
    if first.depth != second.depth:
        raise SpaceError(
            f"Parents of depth {first.depth} and {second.depth} cannot be crossed: "
            "choose two of equal depth."
        )

    def either(pair: tuple[float, float]) -> float:
        return rng.choice(pair)

    patch_sizes = first.patch_size, second.patch_size
    differ = len(set(patch_sizes)) > 1  # equal ones are not drawn, as if there was no choice
    return space.build(
        rng.choice((first.embed_dim, second.embed_dim)),
        tuple(int(either(p)) for p in zip(first.num_heads, second.num_heads, strict=True)),
        tuple(either(p) for p in zip(first.mlp_ratio, second.mlp_ratio, strict=True)),
        patch_size=rng.choice(patch_sizes) if differ else first.patch_size,
    )


def neighbours(one: Architecture, space: SearchSpace) -> Iterator[Architecture]:
    """Yield every architecture of the space that is one step away, each once.

    A step is another number of heads or another MLP ratio in one block, the next smaller or larger
    width or patch size, or the next smaller or larger depth: a shallower one keeps the first
    blocks, a deeper one gets any new block at its end (where depths are further apart, that block
    repeated).
    """
    width, heads, ratios = one.embed_dim, one.num_heads, one.mlp_ratio
    build = functools.partial(space.build, patch_size=one.patch_size)
    for block in range(one.depth):
        for other in space.num_heads:
            if other != heads[block]:
                yield build(width, (*heads[:block], other, *heads[block + 1 :]), ratios)
        for ratio in space.mlp_ratio:
            if ratio != ratios[block]:
                yield build(width, heads, (*ratios[:block], ratio, *ratios[block + 1 :]))
    for next_width in _beside(space.embed_dim, width):
        yield build(next_width, heads, ratios)
    for patch_size in _beside(space.patch_size, one.patch_size):
        yield build(width, heads, ratios, patch_size=patch_size)
    for depth in _beside(space.depth, one.depth):
        more = depth - one.depth
        if more < 0:
            yield build(width, heads[:depth], ratios[:depth])
        else:
            for new_heads, new_ratio in itertools.product(space.num_heads, space.mlp_ratio):
                yield build(width, heads + (new_heads,) * more, ratios + (new_ratio,) * more)


def distance(first: Architecture, second: Architecture) -> int:
    """Count the genes by which two architectures differ.

    Genes are patch size, width, and heads and MLP ratio of each block. A block that only one of
    them has counts as two genes.
    """
    return sum(
        mine != its
        for genes, others in (
            ((first.patch_size, first.embed_dim), (second.patch_size, second.embed_dim)),
            (first.num_heads, second.num_heads),
            (first.mlp_ratio, second.mlp_ratio),
        )
        for mine, its in itertools.zip_longest(genes, others)
    )


def _beside(choices: tuple[int, ...], mine: int) -> tuple[int, ...]:
    """Return the next smaller and the next larger choice, where they exist."""
    at = choices.index(mine)
    return choices[max(0, at - 1) : at] + choices[at + 1 : at + 2]
