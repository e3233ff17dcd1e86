"""Draws of spaces with one patch size: the sequences that published seeds stand for."""

import hashlib
import itertools
import random

import pytest

from masktas.space import QUANTITIES, Budget, BudgetedSpace, Costs, SearchSpace, crossover, mutate
from masktas.space.vary import neighbours
from measured import latency_model

LARGE = SearchSpace(
    "large", tuple(range(128, 513, 64)), tuple(range(8, 25, 2)), tuple(range(1, 13)),
    (1, 1.5, 2, 2.5, 3, 3.5, 4, 5), head_dim=32, num_classes=100,
)  # fmt: skip


def digest_of(found):
    """Return a short digest of architectures and numbers, in order."""
    words = " ".join(one if isinstance(one, str) else repr(one) for one in found)
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def digests(architectures):
    return digest_of(one.digest() for one in architectures)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", "0b16471d4e22 3f71dcd184c9 8e7db5cb6786 d6573ef03674 812c3b0adb68"),
        ("small", "b6ef3217cbb8 3eccc7fdda68 5d5e08b8e6b1 e2ec338b7d43 32daa4dbd5b9"),
        ("base", "9a68bfae4d57 a514ca58c65c 7c725812edeb 04c9dabe60c3 53315145b288"),
        ("micro", "dd7ffff54615 d13f9773cc3e 32af97841161 d73fb201e1bd bb091e519a70"),
        ("demo", "56e913b79e69 07d2b546f33c 4568a5e12aed 165ecd80e08b a9342079cc23"),
    ],
)
def test_draws_of_a_space(name, expected):
    assert drawn_from(SearchSpace.preset(name)) == expected


def drawn_from(space):
    rng = random.Random(3)
    parents = [space.sample(rng) for _ in range(50)]
    mutants = [mutate(one, space, rng) for one in parents]
    pairs = [pair for pair in itertools.combinations(parents, 2) if pair[0].depth == pair[1].depth]
    children = [crossover(*pair, space, rng) for pair in pairs[:50]]
    around = itertools.islice(neighbours(parents[0], space), 50)
    return " ".join(
        map(digests, (parents, mutants, children, around, itertools.islice(space.uniforms(), 500)))
    )


def limited(space, **limits):
    """Return a space within a budget, with latencies that are drawn."""
    costs = Costs(latency=latency_model(space, random.Random(0)))
    return BudgetedSpace(space, Budget(**limits), costs)


BUDGETS = {
    "none": ("demo", {}),
    "params": ("micro", {"max_params": 1_200_000}),
    "all": (
        "demo",
        {
            "min_params": 100_000, "max_macs": 9_000_000, "max_latency": 0.55,
            "max_size": 700_000, "max_memory": 130_000,
        },
    ),
    "paper": ("tiny", {"min_params": 5_500_000, "max_params": 6_000_000}),
    "large": (LARGE, {"max_macs": 2_000_000_000, "max_latency": 1.2, "max_params": 11_000_000}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "exact", "size", "expected"),
    [
        (
            "none", True, 199_017,
            "40136c3d2d6d 6865eb13095b af5d95bb585d baa128320ad9 340af0acc119 2a50e9ca888e",
        ),
        (
            "params", True, 6_883_176,
            "2c505c67508d 3b62fbf4bde2 cf2e9c84a5ac 24f495010ea9 d67ee4c250f1 75987628c312",
        ),
        (
            "all", True, 61_238,
            "0ba1edaf3930 2792970c3935 0dceb663784b 86441825efca 88e113d3c399 81d9587caf82",
        ),
        (
            "paper", True, 17_116_464,
            "ef874097bb07 ef2e349e5346 0739edbe366e 3b538c7d4ac3 19adeaf02e12 746880c32ee6",
        ),
        pytest.param(
            "large", False, 680_743_366_537_931_997_947_924_163_810_285_349_342_792_991_039,
            "18bc72428b52 50831e1c78fb 24ee73a848e1 67041460b60d 96012aae0edf b36492b43ae4",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_draws_within_a_budget(name, exact, size, expected):
    space, limits = BUDGETS[name]
    counted = limited(SearchSpace.preset(space) if isinstance(space, str) else space, **limits)
    assert (counted.exact, counted.size()) == (exact, size)
    assert drawn_within(counted) == expected


def drawn_within(counted):
    rng = random.Random(4)
    return " ".join(
        [
            digests(counted.sample(rng) for _ in range(50)),
            digests(counted.sample_evenly(rng) for _ in range(20)),
            digests(counted.costliest(rng) for _ in range(3)),
            digests([counted.largest_uniform()]),
            digests(itertools.islice(counted, 200)),
            digest_of(counted.cost_range(what) for what in QUANTITIES),
        ]
    )
