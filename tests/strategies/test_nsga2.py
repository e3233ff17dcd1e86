"""NSGA-II, against the literal algorithm, and the fronts that it and the report use."""

import random
import time

import numpy as np
import pytest

from landscapes import FEW, MICRO, SMALL, architectures, larger, rough, run, smooth
from masktas.errors import ConfigError
from masktas.space import macs, params
from masktas.strategies import NSGA2, Exhaustive, RandomSearch, Score, front
from masktas.strategies.nsga2 import crowding_distances, survivors, with_depth_of

# --- NSGA-II


def test_it_finds_a_better_front_than_random_search():
    def share_of_front(seed):
        searches = [kind(MICRO, population=20, seed=seed) for kind in (NSGA2, RandomSearch)]
        points = [
            (rated.rating, -params(rated.architecture))
            for search in searches
            for rated in run(search, smooth).history
        ]
        assert len(points) == 800
        on_front = front(points)
        return sum(index < 400 for index in on_front) / len(on_front)

    shares = [share_of_front(seed) for seed in range(3)]
    assert min(shares) > 0.6


def test_children_are_of_the_better_parents():
    """Of two drawn parents the better wins: here the smaller one, in rating as in costs."""
    smaller = 0
    for seed in range(20):
        search = NSGA2(MICRO, population=20, generations=2, seed=seed)
        parents = [params(one.architecture) for one in search.ask()]
        search.tell([Score(-size) for size in parents])
        children = [params(one.architecture) for one in search.ask()]
        smaller += sum(children) / len(children) < sum(parents) / len(parents)
    assert smaller >= 18


def test_other_costs_lead_elsewhere():
    def found(*objectives, costs=None):
        search = NSGA2(MICRO, population=10, generations=6, objectives=objectives, costs=costs)
        return architectures(run(search, larger))

    assert found("params") == found("params", costs=lambda one: {"params": params(one)})
    assert found("params") != found("params", "macs")
    assert found("width", costs=lambda one: {"width": one.embed_dim}) != found("params")
    low = sum(one.embed_dim for one in found("width", costs=lambda one: {"width": one.embed_dim}))
    high = sum(one.embed_dim for one in found("width", costs=lambda one: {"width": -one.embed_dim}))
    assert low < high


def test_every_cost_of_the_space_can_be_an_objective():
    names = list(MICRO.costs.of(MICRO.space.smallest))
    assert {"params", "macs", "size", "memory"} <= set(names)
    search = run(NSGA2(MICRO, population=10, generations=3, objectives=names), smooth)
    assert len(search.history) == 30


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (["latency"], "Objective 'latency' is not a cost: choose among params, macs"),
        (["params", ""], "Objective '' is not a cost"),
        ([], "No objective beside the rating is given: choose among params, macs"),
    ],
)
def test_objectives_that_nobody_knows_are_refused(objectives, message):
    with pytest.raises(ConfigError, match=message):
        NSGA2(MICRO, objectives=objectives)


def test_it_prints_nothing_and_does_not_depend_on_global_random_numbers(capfd):
    histories = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        histories.append(run(NSGA2(MICRO, population=9, generations=6), smooth).history)
    assert histories[0] == histories[1]
    assert capfd.readouterr() == ("", "")


def naive_fronts(points):
    """Sort points into fronts, by the definition: what no other point of the rest dominates."""

    def dominates(one, other):
        pairs = list(zip(one, other, strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    rest, fronts = list(range(len(points))), []
    while rest:
        fronts.append(
            [i for i in rest if not any(dominates(points[j], points[i]) for j in rest if j != i)]
        )
        rest = [i for i in rest if i not in fronts[-1]]
    return fronts


def naive_crowding(points):
    """Follow the paper's pseudo-code line by line (Deb et al. 2002, III.B)."""
    size = len(points)
    distance = [0.0] * size
    for m in range(len(points[0])):
        order = sorted(range(size), key=lambda i: points[i][m])
        span = points[order[-1]][m] - points[order[0]][m]
        distance[order[0]] = distance[order[-1]] = float("inf")
        for k in range(1, size - 1):
            if span > 0:
                gap = points[order[k + 1]][m] - points[order[k - 1]][m]
                distance[order[k]] = distance[order[k]] + gap / span
    return distance


@pytest.mark.parametrize("coordinates", [1, 2, 3])
@pytest.mark.parametrize("step", [1.0, 0.001])  # many ties, or hardly any
def test_survivors_are_those_of_the_literal_algorithm(coordinates, step):
    rng = random.Random(f"{coordinates} {step}")
    for size in (1, 2, 3, 17, 60):
        points = [
            tuple(step * rng.randrange(round(5 / step)) for _ in range(coordinates))
            for _ in range(size)
        ]
        fronts = naive_fronts(points)
        distances = [naive_crowding([points[i] for i in one]) for one in fronts]
        keys = {
            index: (rank, -distance)
            for rank, (one, found) in enumerate(zip(fronts, distances, strict=True))
            for index, distance in zip(one, found, strict=True)
        }
        for one, found in zip(fronts, distances, strict=True):
            assert crowding_distances([points[index] for index in one]) == pytest.approx(found)
        for count in {1, 2, size, size + 5, -(-size // 2)}:
            best = survivors(points, count)
            assert len(best) == len(set(best)) == min(count, size)
            ranks, crowding = zip(*(keys[index] for index in best), strict=True)
            right = sorted(keys.values())[:count]
            assert ranks == tuple(rank for rank, _ in right)
            assert crowding == pytest.approx([distance for _, distance in right])


def test_a_mate_of_another_depth_is_cut_or_continued():
    shallow = FEW.build(8, (1,), (2,))
    deep = FEW.build(16, (2, 1), (1, 2))
    assert with_depth_of(shallow, deep, FEW) == FEW.build(16, (2,), (1,))
    assert with_depth_of(deep, shallow, FEW) == FEW.build(8, (1, 1), (2, 2))
    assert with_depth_of(deep, deep, FEW) == deep


def test_crowding_by_hand():
    points = [(0.0, 10.0), (1.0, 4.0), (2.0, 2.0), (10.0, 0.0)]
    assert crowding_distances(points) == [float("inf"), 0.2 + 0.8, 0.9 + 0.4, float("inf")]
    assert survivors([*points, (0.0, 3.0)], 4) == [0, 3, 2, 1]
    assert survivors([*points, (0.0, 3.0)], 5)[-1] == 4
    assert survivors([], 3) == crowding_distances([]) == []


def test_children_come_from_the_front():
    """Make every depth but one bad: after the random generation hardly any other is asked for."""

    def deepest(one):
        return 100.0 * (one.depth == 6) + smooth(one)

    search = run(NSGA2(MICRO, population=20, generations=10, objectives=["params"]), deepest)
    asked = [one for one in search.history if one.generation >= 5]
    assert {one.origin for one in asked} == {"child"}
    assert len(search.history) == 200
    children = survivors(
        [(deepest(one), -params(one)) for one in architectures(search)], search.population
    )
    late = sum(search.history[index].generation > 0 for index in children)
    assert late > 15


# --- fronts


def test_a_front_by_hand():
    points = [(1, 5), (2, 4), (2, 3), (3, 1), (0, 5), (3, 1), (1, 5)]
    assert front(points) == [0, 1, 3, 5, 6]
    assert front([(1,), (3,), (3,), (2,)]) == [1, 2]
    assert front([]) == []
    assert front([(0, float("-inf"))]) == [0]


@pytest.mark.parametrize(
    "points", [[(1, float("nan"))], [(1, 2), (1,)], [1, 2], [()]], ids=["nan", "ragged", "flat", ""]
)
def test_what_are_no_points_is_refused(points):
    with pytest.raises(ValueError, match=r"."):
        front(points)


@pytest.mark.parametrize("many", ["line", "sphere", "cloud"])
def test_ten_thousand_points_take_no_time(many):
    rng = np.random.default_rng(0)
    cloud = rng.standard_normal((10_000, 3))
    points = {
        "line": np.stack([np.arange(10_000), -np.arange(10_000)], axis=1),
        "sphere": np.abs(cloud) / np.linalg.norm(cloud, axis=1, keepdims=True),
        "cloud": cloud,
    }[many].tolist()
    began = time.process_time()
    found = front(points)
    assert time.process_time() - began < 1.5
    assert (len(found) == 10_000) is (many != "cloud")


def test_size_alone_has_both_ends_on_the_front():
    ones = architectures(run(Exhaustive(SMALL), rough))
    on_front = front([(-params(one), -macs(one)) for one in ones])
    assert FEW.smallest in [ones[index] for index in on_front]
    assert FEW.largest not in [ones[index] for index in on_front]
