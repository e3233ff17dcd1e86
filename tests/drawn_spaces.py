"""Small search spaces that hypothesis draws, every architecture of them, and budgets."""

import itertools
import math
import random

from hypothesis import strategies as st

from examples import examples
from masktas.space import QUANTITIES, Budget, Costs, SearchSpace
from measured import latency_model

few = examples(60)
seeds = st.integers(0, 2**32).map(random.Random)


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
