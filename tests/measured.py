"""Latency models for tests: random tables of a space, as if measured."""

import itertools

from masktas.space import LatencyModel
from masktas.space.latency import FIXED


def latency_model(space, rng, *, low=0.02, high=0.08):
    """Return a model of the space whose entries grow with what they time, noisily."""

    def entry(patch, size, largest):
        return rng.uniform(low, high) * (0.2 + size / largest) * (min(space.patch_size) / patch)

    widest, heads = max(space.embed_dim), max(space.num_heads)
    hidden = int(widest * max(space.mlp_ratio))
    stems = list(itertools.product(space.patch_size, space.embed_dim))
    return LatencyModel(
        target={"device": "cpu", "threads": 1},
        fixed={field: getattr(space, field) for field in FIXED},
        stem={(patch, width): entry(patch, width, widest) for patch, width in stems},
        attention={
            (patch, width, choice): entry(patch, width * choice, widest * heads)
            for patch, width in stems
            for choice in space.num_heads
        },
        mlp={
            (patch, width, int(width * ratio)): entry(
                patch, width * int(width * ratio), widest * hidden
            )
            for patch, width in stems
            for ratio in space.mlp_ratio
        },
        held_out={"networks": 8, "mean_error": 0.02},
    )
