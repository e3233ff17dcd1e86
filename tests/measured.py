"""Latency models for tests: random tables of a space, as if measured."""

from masktas.space import LatencyModel
from masktas.space.latency import FIXED


def latency_model(space, rng, *, low=0.02, high=0.08):
    """Return a model of the space whose entries grow with the width of what they time, noisily."""

    def entry(size, largest):
        return rng.uniform(low, high) * (0.2 + size / largest)

    widest, heads = max(space.embed_dim), max(space.num_heads)
    hidden = int(widest * max(space.mlp_ratio))
    return LatencyModel(
        target={"device": "cpu", "threads": 1},
        fixed={field: getattr(space, field) for field in FIXED},
        stem={width: entry(width, widest) for width in space.embed_dim},
        attention={
            (width, choice): entry(width * choice, widest * heads)
            for width in space.embed_dim
            for choice in space.num_heads
        },
        mlp={
            (width, int(width * ratio)): entry(width * int(width * ratio), widest * hidden)
            for width in space.embed_dim
            for ratio in space.mlp_ratio
        },
        held_out={"networks": 8, "mean_error": 0.02},
    )
