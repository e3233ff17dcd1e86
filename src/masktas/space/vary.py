"""The two operators of the evolution (SPEC 4): both return an architecture of the space, always."""

from __future__ import annotations

import random

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

    A shallower child keeps the first blocks; a deeper one gets new blocks at its end, drawn at
    random. `P_d` is `depth_probability`, `P_m` `block_probability`, applied to each gene.
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
    return space.build(embed_dim, tuple(int(heads) for heads in num_heads), mlp_ratio)


def crossover(
    first: Architecture, second: Architecture, space: SearchSpace, rng: random.Random
) -> Architecture:
    """Return a child of two parents of equal depth, each gene from either.

    Raises:
        SpaceError: if their depths differ; there is no child then that is not malformed.
    """
    if first.depth != second.depth:
        raise SpaceError(
            f"Parents of depth {first.depth} and {second.depth} cannot be crossed: "
            "choose two of equal depth."
        )

    def either(pair: tuple[float, float]) -> float:
        return rng.choice(pair)

    return space.build(
        rng.choice((first.embed_dim, second.embed_dim)),
        tuple(int(either(p)) for p in zip(first.num_heads, second.num_heads, strict=True)),
        tuple(either(p) for p in zip(first.mlp_ratio, second.mlp_ratio, strict=True)),
    )
