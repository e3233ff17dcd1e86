"""What each strategy is for: parents of evolution, random, local and exhaustive search."""

import itertools
import time

import pytest

from landscapes import FEW, MICRO, SMALL, architectures, rough, run, smooth
from masktas.errors import BudgetError
from masktas.space import Budget, BudgetedSpace, SearchSpace, params
from masktas.space.vary import distance, neighbours
from masktas.strategies import Evolution, Exhaustive, LocalSearch, RandomSearch, Score

# --- evolution


@pytest.mark.slow
def test_diverse_parents_keep_crossover_alive():
    def crossovers(diversity):
        searches = [run(Evolution(MICRO, seed=s, diversity=diversity), smooth) for s in range(3)]
        origins = [rated.origin for search in searches for rated in search.history]
        return origins.count("crossover")

    assert crossovers(3) > 1.2 * crossovers(0)


def genes_of(one):
    return (one.embed_dim, *one.num_heads, *one.mlp_ratio)


def test_parents_differ_by_as_many_genes_as_was_asked():
    search = Evolution(MICRO, population=20, generations=8, parents=4, diversity=5)
    crossed = 0
    while not search.done:
        parents = []
        for rated in search.top(20):
            one = rated.architecture
            if len(parents) < 4 and all(distance(one, other) >= 5 for other in parents):
                parents.append(one)
        pairs = [
            list(zip(genes_of(one), genes_of(other), strict=True))
            for one, other in itertools.permutations(parents, 2)
            if one.depth == other.depth
        ]
        for candidate in search.ask():
            if candidate.origin == "crossover":
                child = genes_of(candidate.architecture)
                assert any(
                    len(pair) == len(child)
                    and all(gene in of for gene, of in zip(child, pair, strict=True))
                    for pair in pairs
                )
                crossed += 1
        search.tell([Score(smooth(candidate.architecture)) for candidate in search.ask()])
    assert crossed > 20
    assert search.keeps == 20
    assert Evolution(MICRO, population=20, parents=4).keeps == 4


# --- random


def test_random_search_does_not_look_at_ratings():
    assert architectures(run(RandomSearch(MICRO), smooth)) == architectures(
        run(RandomSearch(MICRO), rough)
    )


# --- local


def test_a_climb_goes_from_neighbour_to_better_neighbour():
    search = LocalSearch(MICRO, population=20, generations=30)
    point, climbs, steps = None, 0, 0
    while not search.done:
        asked = search.ask()
        if asked[0].origin == "random":
            assert len(asked) == (1 if search.history else 20)
            assert not search.history or climbed_out(search, point)
            point, climbs = None, climbs + 1
        else:
            around = set(neighbours(point.architecture, MICRO.space))
            assert {candidate.architecture for candidate in asked} <= around
            assert {candidate.origin for candidate in asked} == {"neighbour"}
        search.tell([Score(smooth(candidate.architecture)) for candidate in asked])
        best = max(search.history[-len(asked) :], key=lambda rated: rated.rating)
        if point is None or best.rating > point.rating:
            point, steps = best, steps + 1
    assert len(search.history) == 600
    assert climbs > 3
    assert steps > 10


def climbed_out(search, point):
    """Say whether no neighbour of a point is left that could be asked for."""
    seen = set(architectures(search))
    around = neighbours(point.architecture, MICRO.space)
    return all(one in seen or not MICRO.contains(one) for one in around)


def test_local_search_finds_the_best_of_a_smooth_landscape():
    found = run(LocalSearch(SMALL, population=8, generations=3, seed=1), smooth).best
    assert found.rating == max(smooth(one) for one in architectures(run(Exhaustive(SMALL), smooth)))


# --- exhaustive


def test_exhaustive_search_rates_everything_in_one_order():
    budget = Budget(max_params=(params(FEW.smallest) + params(FEW.largest)) // 2)
    some = BudgetedSpace(FEW, budget)
    search = run(Exhaustive(some, population=7), rough)
    assert 1 < some.size() < 40
    assert len(set(architectures(search))) == len(search.history) == some.size()
    assert architectures(search) == architectures(run(Exhaustive(some, seed=9), smooth))


def test_the_few_within_a_narrow_budget_are_found_in_a_large_space():
    least = params(SearchSpace.preset("base").smallest)
    narrow = BudgetedSpace(SearchSpace.preset("base"), Budget(max_params=round(least * 1.01)))
    assert 100 < narrow.size() < 1000
    began = time.process_time()
    search = run(Exhaustive(narrow), rough)
    assert time.process_time() - began < 2
    assert len(set(architectures(search))) == narrow.size()


def test_too_large_a_space_for_exhaustive_search_is_refused_at_once():
    began = time.process_time()
    with pytest.raises(BudgetError, match=r"^Space micro has [\d,]{9} .*at most 100,000: choose"):
        Exhaustive(MICRO)
    with pytest.raises(BudgetError, match=r"has 40 .*at most 39"):
        Exhaustive(SMALL, limit=39)
    assert time.process_time() - began < 1
    assert run(Exhaustive(SMALL, limit=40), rough).done
