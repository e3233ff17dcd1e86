"""What every strategy promises, and what each is for; on ratings that need no images."""

import itertools
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from masktas.errors import ArtifactError, BudgetError, ConfigError, MasktasError
from masktas.space import Budget, BudgetedSpace, SearchSpace, macs, params
from masktas.space.vary import distance, neighbours
from masktas.strategies import (
    NSGA2,
    Evolution,
    Exhaustive,
    LocalSearch,
    RandomSearch,
    Score,
    front,
    journal,
)
from masktas.strategies.nsga2 import crowding_distances, survivors, with_depth_of

MICRO = BudgetedSpace(SearchSpace.preset("micro"), Budget(max_params=900_000))
FEW = SearchSpace("few", (8, 16), (1, 2), (1, 2), (1, 2), head_dim=4)
SMALL = BudgetedSpace(FEW, Budget())
ALL = [Evolution, RandomSearch, LocalSearch, Exhaustive, NSGA2]
ENDLESS = [Evolution, RandomSearch, LocalSearch, NSGA2]


def smooth(one):
    """Rate by genes that have nothing to do with each other, some good and some bad."""
    rng = random.Random("smooth")
    genes = (*one.num_heads, *one.mlp_ratio)
    return one.embed_dim / 100 + sum(rng.gauss(0, 1) * gene for gene in genes)


def rough(one):
    """Rate without any order."""
    return random.Random(one.digest()).gauss(0, 1)


def larger(one):
    """Rate the larger higher, and not quite by size."""
    return params(one) / 1e5 + 0.3 * rough(one)


def run(search, rate):
    while not search.done:
        search.tell([Score(rate(candidate.architecture)) for candidate in search.ask()])
    return search


def architectures(search):
    return [rated.architecture for rated in search.history]


# --- what all promise


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("rate", [smooth, rough])
def test_a_thousand_within_the_budget_and_none_twice_in_no_time(kind, rate):
    rate(MICRO.space.smallest)
    began = time.process_time()
    search = run(kind(MICRO), lambda one: 0.0)
    assert time.process_time() - began < 3  # numpy's import included
    assert len(search.history) == search.total == 1000
    search = run(kind(MICRO, seed=1), rate)
    rated = architectures(search)
    assert len(rated) == len(set(rated)) == search.total == 1000
    assert all(MICRO.contains(one) for one in rated)


@pytest.mark.parametrize("kind", ALL)
def test_asking_again_returns_the_same(kind):
    search = kind(SMALL, population=6)
    while not search.done:
        asked = list(search.ask())
        assert search.ask() == asked
        search.tell([Score(rough(candidate.architecture)) for candidate in asked])
    assert search.ask() == []
    assert search.history == run(kind(SMALL, population=6), rough).history


@pytest.mark.parametrize("kind", ALL)
def test_a_wrong_number_of_scores_is_refused_and_changes_nothing(kind):
    search = kind(SMALL, population=6)
    asked = list(search.ask())
    for count in (0, 5, 7):
        with pytest.raises(ValueError, match="zip"):
            search.tell([Score(1.0)] * count)
    assert search.history == []
    assert search.ask() == asked
    assert run(search, rough).history == run(kind(SMALL, population=6), rough).history


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("population", [1, 2, 7, pytest.param(500, marks=pytest.mark.slow)])
def test_a_small_space_is_soon_exhausted(kind, population):
    most = {} if kind is Exhaustive else {"generations": 1000}
    search = run(kind(SMALL, population=population, **most), rough)
    assert search.total == SMALL.size() == 40
    assert len(set(architectures(search))) == len(search.history) <= 40
    # the few tries of a small generation may not meet the last ones
    assert len(search.history) == 40 or population <= 2


@pytest.mark.parametrize("kind", ALL)
def test_a_single_architecture(kind):
    one = FEW.uniform(8, 1, 1, 1)
    space = FEW.replace(embed_dim=(8,), depth=(1,), num_heads=(1,), mlp_ratio=(1,))
    search = run(kind(BudgetedSpace(space, Budget())), rough)
    assert architectures(search) == [one]
    assert search.total == 1


@pytest.mark.parametrize("kind", ENDLESS)
def test_the_seed_decides(kind):
    def history(seed):
        return run(kind(MICRO, population=8, generations=5, seed=seed), smooth).history

    assert history(1) == history(1)
    assert history(1) != history(2)


@pytest.mark.parametrize("kind", ENDLESS)
def test_all_begin_with_the_same_random_generation(kind):
    assert kind(MICRO, seed=3).ask() == RandomSearch(MICRO, seed=3).ask()


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_it(kind, patience):
    search = run(kind(MICRO, population=6, generations=50, patience=patience), lambda one: 1.0)
    assert len({rated.generation for rated in search.history}) == 1 + patience
    assert search.done
    assert search.best == search.history[0]


@pytest.mark.parametrize("kind", ALL)
def test_patience_begins_anew_with_every_better_rating(kind):
    count = iter(range(10_000))
    search = run(kind(SMALL, population=4, patience=1), lambda one: float(next(count)))
    assert len(search.history) == 40


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("wrong", ["population", "generations", "patience"])
def test_counts_below_one_are_refused(kind, wrong):
    with pytest.raises(ConfigError, match=f"{wrong} is 0: give a whole number above 0"):
        kind(MICRO, **{wrong: 0})


@pytest.mark.parametrize("kind", ALL)
def test_estimates_are_never_the_best(kind):
    search = kind(SMALL, population=6)
    asked = search.ask()
    scores = [Score(float(at), 0.1, 5, complete=at in (1, 2, 4)) for at in range(6)]
    with pytest.raises(ValueError, match="empty"):
        search.best  # noqa: B018
    search.tell(scores)
    assert search.best.architecture == asked[4].architecture
    assert (search.best.generation, search.best.origin) == (asked[4].generation, asked[4].origin)
    assert search.best.score == scores[4]
    assert [rated.rating for rated in search.top(2)] == [4, 2]
    assert [rated.rating for rated in search.top(9)] == [4, 2, 1]
    assert len(search.history) == 6


def test_of_equal_ones_the_first_is_best():
    search = RandomSearch(MICRO, population=5, generations=1)
    search.tell([Score(rating) for rating in (1.0, 2.0, 1.0, 2.0, 2.0)])
    assert search.best == search.history[1]
    assert search.top(4) == [search.history[at] for at in (1, 3, 4, 0)]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_score_must_be_finite(number):
    with pytest.raises(MasktasError, match="not finite"):
        Score(number)
    with pytest.raises(MasktasError, match="not finite"):
        Score(1.0, number)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(one, marks=pytest.mark.slow) if one in (NSGA2, RandomSearch) else one
        for one in ALL
    ],
)
def test_killed_after_any_line_it_goes_on_to_the_identical_end(kind, tmp_path):
    def make():
        return kind(SMALL, population=6, seed=5)

    whole = run(make(), rough).history
    for cut in range(len(whole) + 1):
        path = tmp_path / f"{cut}.jsonl"
        journal.write(path, whole[:cut], 0)
        search = make()
        known = journal.replay(path, search)
        assert len(search.history) + len(known) == cut
        if not search.done:
            rest = search.ask()[len(known) :]
            search.tell(known + [Score(rough(candidate.architecture)) for candidate in rest])
        assert run(search, rough).history == whole


def test_another_strategys_journal_is_refused(tmp_path):
    path = tmp_path / "history.jsonl"
    written = run(LocalSearch(MICRO, population=5, generations=3), smooth)
    journal.write(path, written.history, 0)
    for kind in (Evolution, NSGA2, RandomSearch):
        with pytest.raises(ArtifactError, match="candidate"):
            journal.replay(path, kind(MICRO, population=5, generations=3))


def test_importing_strategies_loads_nothing_heavy():
    code = "import sys, masktas.strategies; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "masktas" in loaded
    assert not loaded & {"numpy", "scipy", "torch", "matplotlib"}


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
