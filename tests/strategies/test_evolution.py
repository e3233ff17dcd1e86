"""Evolution by ask and tell, on ratings that need neither models nor images."""

import hashlib
import inspect
import itertools
import os
import random
import statistics
import subprocess
import sys
from collections import Counter

import pytest

from masktas.config import SearchSettings
from masktas.space import Budget, BudgetedSpace, SearchSpace
from masktas.strategies import NSGA2, Candidate, Evolution, Score

TINY = BudgetedSpace(SearchSpace.preset("tiny"), Budget(max_params=6_500_000))
MICRO = BudgetedSpace(SearchSpace.preset("micro"), Budget(min_params=700_000, max_params=1_000_000))


def budgeted(**choices):
    """Return a small space of the given choices, without limits."""
    fields = {"embed_dim": (8, 16), "depth": (1,), "num_heads": (1, 2), "mlp_ratio": (1, 2)}
    return BudgetedSpace(SearchSpace("mine", **{**fields, **choices}, head_dim=4), Budget())


def linear_rating(seed):
    """Return a rating that is a linear function of the genes, some good and some bad."""
    rng = random.Random(f"rating {seed}")
    heads, ratios = ([rng.gauss(0, 1) for _ in range(20)] for _ in range(2))

    def rate(one):
        return (
            one.embed_dim / 100
            + sum(weight * gene for weight, gene in zip(heads, one.num_heads, strict=False))
            + sum(weight * gene for weight, gene in zip(ratios, one.mlp_ratio, strict=False))
        )

    return rate


def asked_for(history):
    """Return the candidates of a history."""
    return [Candidate(one.architecture, one.generation, one.origin) for one in history]


def run(evolution, rate):
    """Drive a search to its end; return its history."""
    while not evolution.done:
        evolution.tell([Score(rate(candidate.architecture)) for candidate in evolution.ask()])
    return evolution.history


def by_generation(history):
    """Group a history by generation, in order."""
    return [
        list(group) for _, group in itertools.groupby(history, key=lambda rated: rated.generation)
    ]


def origins(generation):
    return Counter(rated.origin for rated in generation)


# --- the paper's search


def test_the_papers_values_are_the_defaults():
    expected = {
        "population": 50,
        "generations": 20,
        "parents": 10,
        "depth_probability": 0.4,
        "block_probability": 0.2,
        "diversity": 0,
    }
    evolution = Evolution(TINY)
    assert {name: getattr(evolution, name) for name in expected} == expected
    settings = SearchSettings()
    assert {name: getattr(settings, name) for name in expected} == expected
    named = inspect.signature(Evolution).parameters
    assert {name: named[name].default for name in expected} == expected


def test_the_default_search_rates_a_thousand_within_the_budget_and_none_twice():
    history = run(Evolution(TINY), linear_rating(0))
    generations = by_generation(history)
    assert [len(generation) for generation in generations] == [50] * 20
    assert len({rated.architecture for rated in history}) == 1000
    assert all(TINY.contains(rated.architecture) for rated in history)


@pytest.mark.parametrize(
    ("population", "later"),
    [
        (10, {"crossover": 5, "mutation": 5}),
        (11, {"crossover": 5, "mutation": 5, "random": 1}),
        (50, {"crossover": 25, "mutation": 25}),
    ],
)
def test_generations_are_random_first_and_then_halves(population, later):
    evolution = Evolution(TINY, population=population, generations=4, parents=8)
    first, *others = by_generation(run(evolution, linear_rating(0)))
    assert origins(first) == {"random": population}
    assert len(others) == 3
    for generation in others:
        assert origins(generation) == later


WIDE = SearchSpace(
    "wide", (64, 96, 128, 192, 256), (2, 3, 4, 6, 8, 12), (1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 6),
    head_dim=32, image_size=(32, 32), patch_size=(4, 8), num_classes=10,
)  # fmt: skip


@pytest.mark.parametrize("kind", [Evolution, NSGA2])
def test_simple_shapes_come_first(kind):
    candidates = BudgetedSpace(WIDE, Budget(max_macs=15_000_000), min_use=0.95)
    first = kind(candidates, simple_shapes=True).ask()
    found = {name: [] for name in ("uniform", "ramp", "random")}
    for candidate in first:
        found[candidate.origin].append(candidate.architecture)
    alike = candidates.uniforms()
    assert set(found["uniform"]) == set(alike)
    assert 5 < len(alike) <= 25
    assert 6 <= len(found["ramp"]) <= 12
    assert len(first) == 50
    assert all(candidates.contains(one.architecture) for one in first)
    assert {one.patch_size for one in found["uniform"]} == {4, 8}
    more = BudgetedSpace(WIDE, Budget(max_macs=15_000_000))
    origins_of_first = origins(kind(more, simple_shapes=True).ask())
    assert origins_of_first == {"uniform": 25, "ramp": 12, "random": 13}


def test_moves_of_whole_shapes_are_a_share_of_the_mutations():
    candidates = BudgetedSpace(WIDE, Budget(max_macs=15_000_000), min_use=0.95)
    evolution = Evolution(candidates, generations=6, shape_probability=0.5)
    _, *others = by_generation(run(evolution, linear_rating(0)))
    counts = [origins(generation) for generation in others]
    assert all(count["shape"] + count["mutation"] == 25 for count in counts)
    assert 30 < sum(count["shape"] for count in counts) < 95
    every = Evolution(candidates, generations=2, shape_probability=1)
    assert origins(by_generation(run(every, linear_rating(0)))[1])["shape"] == 25


def test_exhausted_moves_cost_little():
    small = budgeted(depth=(1, 2, 3), num_heads=(1, 2, 3))
    evolution = Evolution(small, population=20, generations=500, shape_probability=1)
    history = run(evolution, linear_rating(0))
    assert len({one.architecture for one in history}) == len(history)


def test_what_crossing_cannot_give_is_filled_at_random():
    # One parent has nobody to be crossed with; mutation keeps to its half (SPEC 4).
    evolution = Evolution(TINY, population=10, generations=3, parents=1)
    _, *others = by_generation(run(evolution, linear_rating(0)))
    for generation in others:
        assert origins(generation) == {"mutation": 5, "random": 5}


def test_what_mutation_cannot_give_is_filled_at_random():
    evolution = Evolution(
        TINY, population=10, generations=3, parents=8, depth_probability=0, block_probability=0
    )
    _, *others = by_generation(run(evolution, linear_rating(0)))
    for generation in others:
        assert origins(generation) == {"crossover": 5, "random": 5}


def test_children_descend_from_the_best_seen_in_any_generation():
    evolution = Evolution(TINY, population=20, generations=6, parents=4, block_probability=0.2)
    generations = by_generation(run(evolution, linear_rating(1)))
    for number in range(1, len(generations)):
        seen = [rated for generation in generations[:number] for rated in generation]
        best = sorted(seen, key=lambda rated: rated.rating, reverse=True)[:4]
        elders = [rated.architecture for rated in best]
        for rated in generations[number]:
            child = rated.architecture
            if rated.origin == "crossover":
                assert any(
                    is_child_of(child, first, second)
                    for first, second in itertools.combinations(elders, 2)
                )


def is_child_of(child, first, second):
    return (
        child.depth == first.depth == second.depth
        and child.embed_dim in (first.embed_dim, second.embed_dim)
        and all(
            gene in pair
            for gene, *pair in zip(child.num_heads, first.num_heads, second.num_heads, strict=True)
        )
        and all(
            gene in pair
            for gene, *pair in zip(child.mlp_ratio, first.mlp_ratio, second.mlp_ratio, strict=True)
        )
    )


def test_mutations_descend_from_the_best_seen():
    # Without a change of depth or width, and with few changes of genes, the parent shows.
    evolution = Evolution(
        TINY, population=20, generations=4, parents=3, depth_probability=0, block_probability=0.05
    )
    generations = by_generation(run(evolution, linear_rating(2)))
    for number in range(1, len(generations)):
        seen = [rated for generation in generations[:number] for rated in generation]
        best = sorted(seen, key=lambda rated: rated.rating, reverse=True)[:3]
        elders = [rated.architecture for rated in best]
        for rated in generations[number]:
            if rated.origin == "mutation":
                assert min(changes(rated.architecture, one) for one in elders) <= 6


def changes(one, other):
    """Count the genes that differ; infinite where depth or width do."""
    if (one.depth, one.embed_dim) != (other.depth, other.embed_dim):
        return float("inf")
    genes = zip(one.num_heads + one.mlp_ratio, other.num_heads + other.mlp_ratio, strict=True)
    return sum(mine != its for mine, its in genes)


def test_it_beats_random_search_with_as_many_ratings():
    found, drawn = [], []
    for seed in range(6):
        rate = linear_rating(seed)
        history = run(Evolution(MICRO, population=20, generations=10, parents=6, seed=seed), rate)
        found.append(max(rated.rating for rated in history))
        rng = random.Random(seed)
        drawn.append(max(rate(MICRO.sample(rng)) for _ in history))
    assert statistics.mean(found) > statistics.mean(drawn) + 2
    assert all(evolved >= sampled for evolved, sampled in zip(found, drawn, strict=True))


def test_ratings_steer_the_search():
    up = run(Evolution(MICRO, population=20, generations=6, parents=5), linear_rating(0))
    down = run(
        Evolution(MICRO, population=20, generations=6, parents=5),
        lambda one: -linear_rating(0)(one),
    )
    assert asked_for(up[:20]) == asked_for(down[:20])
    last_up, last_down = ([rated.rating for rated in history[-20:]] for history in (up, down))
    assert statistics.mean(last_up) > -statistics.mean(last_down) + 2


# --- the same every time


def test_another_process_draws_the_same():
    # Hashes of strings differ between processes; a resumed search must not notice.
    code = (
        "import random\n"
        "from masktas.strategies import Evolution, Score\n"
        "from masktas.space import Budget, BudgetedSpace, SearchSpace\n"
        "space = BudgetedSpace(SearchSpace.preset('micro'), Budget(max_params=10**6))\n"
        "search = Evolution(space, population=8, generations=4)\n"
        "while not search.done:\n"
        "    genes = [(c.architecture.embed_dim, c.architecture.num_heads) for c in search.ask()]\n"
        "    search.tell([Score(width + heads[0]) for width, heads in genes])\n"
        "print([rated.architecture.digest() for rated in search.history])\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(printed.pop()) > 32 * 12


def test_ratings_go_to_candidates_in_their_order():
    evolution = Evolution(MICRO, population=4, generations=1)
    asked = list(evolution.ask())
    evolution.tell([Score(rating) for rating in (3.0, 1.0, 4.0, 4.0)])
    assert asked_for(evolution.history) == asked
    assert [rated.rating for rated in evolution.history] == [3.0, 1.0, 4.0, 4.0]
    assert asked_for([evolution.best]) == [asked[2]]
    assert evolution.done


def digest_rating(one):
    """Return a rating without any order to it, the same in every process."""
    return random.Random(one.digest()).gauss(0, 1)


class Redrawn(BudgetedSpace):
    """A space that is sampled in the plainest way: until the budget is met."""

    def sample(self, rng):
        while not self.contains(one := self.space.sample(rng)):
            pass
        return one


@pytest.mark.parametrize(
    ("rate", "path"),
    [(digest_rating, "14ad6aab47f3b3db"), (linear_rating(0), "fed623e8f0900a49")],
    ids=["rough", "linear"],
)
def test_the_draws_are_those_of_the_first_release(rate, path):
    # What the strategy itself draws; how a space draws its random ones is its own affair.
    space = Redrawn(SearchSpace.preset("micro"), Budget(max_params=900_000))
    lines = [
        f"{one.generation} {one.origin} {one.architecture.digest()}"
        for one in asked_for(run(Evolution(space), rate))
    ]
    assert len(lines) == 1000
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == path


# --- small spaces


def test_a_space_smaller_than_a_generation_is_rated_once_and_done():
    small = budgeted()
    evolution = Evolution(small)
    assert not evolution.done
    evolution.tell([Score(1.0)] * len(evolution.ask()))
    assert evolution.done
    history = evolution.history
    assert len(history) == len({rated.architecture for rated in history}) == 8
    assert small.size() == 8
    assert {rated.generation for rated in history} == {0}
    assert evolution.ask() == []


def test_a_small_space_is_exhausted_long_before_the_last_generation():
    small = budgeted(depth=(1, 2), num_heads=(1, 2))
    assert small.size() == 40
    history = run(Evolution(small, population=12, generations=100, parents=4), linear_rating(0))
    assert len(history) == len({rated.architecture for rated in history}) == 40
    assert len(by_generation(history)) < 10


def test_an_empty_generation_ends_the_search():
    # With 20 tries a generation, one of the 256 rare deep networks is soon not met.
    rare = budgeted(embed_dim=(8,), depth=(1, 4))
    evolution = Evolution(rare, population=1, generations=1000)
    told = 0
    while not evolution.done:
        asked = evolution.ask()
        evolution.tell([Score(1.0)] * len(asked))
        told += 1
    assert told == len(evolution.history) + 1
    assert 4 < len(evolution.history) < rare.size() == 260
