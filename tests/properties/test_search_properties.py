"""What holds for every search: on small random spaces, killed wherever chance has it."""

import itertools
import math
import random
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from masktas.space import Budget, BudgetedSpace, SearchSpace, macs, params
from masktas.strategies import (
    NSGA2,
    Candidate,
    Evolution,
    Exhaustive,
    LocalSearch,
    RandomSearch,
    Score,
    front,
    journal,
)

seeds = st.integers(0, 2**32)


def choices(values, most):
    return st.lists(values, min_size=1, max_size=most, unique=True).map(tuple)


@st.composite
def budgeted_spaces(draw):
    """Draw a space, from one architecture to a few thousand, within a budget that it meets."""
    space = SearchSpace(
        "drawn",
        draw(choices(st.integers(4, 12), 3)),
        draw(choices(st.integers(1, 4), 3)),
        draw(choices(st.integers(1, 5), 2)),
        draw(choices(st.sampled_from([1, 1.1, 1.5, 2, 3.5]), 2)),
        head_dim=2,
        image_size=(8, 8),
        patch_size=draw(st.sampled_from([(4,), (1, 2)])),
        num_classes=3,
    )
    low, high = sorted((params(space.smallest), params(space.largest)))
    most = draw(st.none() | st.integers(low, high))
    return BudgetedSpace(space, Budget(max_params=most))


@st.composite
def evolutions(draw):
    """Draw a function that makes the same evolution every time."""
    space = draw(budgeted_spaces())
    arguments = draw(sizes()) | {
        "parents": draw(st.integers(1, 6)),
        "depth_probability": draw(st.floats(0, 1)),
        "block_probability": draw(st.floats(0, 1)),
        "diversity": draw(st.integers(0, 4)),
        "simple_shapes": draw(st.booleans()),
        "shape_probability": draw(st.sampled_from([0, 0.5, 1])),
    }
    return lambda: Evolution(space, **arguments)


@st.composite
def sizes(draw):
    """Draw what every strategy is given."""
    return {
        "population": draw(st.integers(1, 9)),
        "generations": draw(st.integers(1, 5)),
        "patience": draw(st.none() | st.integers(1, 3)),
        "seed": draw(seeds),
    }


@st.composite
def others(draw):
    """Draw a function that makes the same search every time, of any strategy but evolution."""
    space = draw(budgeted_spaces())
    arguments = draw(sizes())
    kinds = [RandomSearch, LocalSearch, NSGA2] + [Exhaustive] * (space.size() <= 60)
    kind = draw(st.sampled_from(kinds))
    if kind is Exhaustive:
        del arguments["generations"]
    if kind is NSGA2:
        names = st.lists(st.sampled_from(["params", "macs"]), min_size=1, unique=True)
        arguments["objectives"] = draw(names)
    return lambda: kind(space, **arguments)


searches = evolutions() | others()


def costs(one):
    return {"params": params(one), "macs": macs(one)}


def rating(seed):
    """Return a rating with all its digits, and with ties."""

    def rate(one):
        value = random.Random(f"{seed} {one.digest()}").gauss(0, 1)
        return value if seed % 3 else float(round(value))

    return rate


def run(search, rate):
    while not search.done:
        search.tell([Score(rate(candidate.architecture)) for candidate in search.ask()])
    return search.history


def race(search, rate):
    """Run a search that gets only estimates of those that are not among the best `keeps`."""
    while not search.done:
        asked = search.ask()
        ratings = [rate(candidate.architecture) for candidate in asked]
        complete = [rated.rating for rated in search.history if rated.score.complete]
        kept = sorted(complete + ratings, reverse=True)[: search.keeps]
        search.tell(
            [
                Score(value) if value in kept else Score(value + 10, 1.0, 5, complete=False)
                for value in ratings
            ]
        )
    return search.history


def resume(path, search, rate):
    """Search from where the journal ends, as the search stage does."""
    known = journal.replay(path, search)
    while not search.done:
        fresh = search.ask()[len(known) :]
        scores = [Score(rate(candidate.architecture), 0.5, 7) for candidate in fresh]
        lines = [
            candidate.with_score(score, costs(candidate.architecture))
            for candidate, score in zip(fresh, scores, strict=True)
        ]
        journal.write(path, lines, len(search.history) + len(known))
        search.tell(known + scores)
        known = []
    return search.history


def asked_for(history):
    """Return the candidates of a history."""
    return [Candidate(one.architecture, one.generation, one.origin) for one in history]


def path_of(history):
    return [(one.architecture, one.generation, one.origin, one.rating) for one in history]


@examples(120)
@given(searches, seeds)
def test_a_search_ends_and_rates_each_architecture_of_the_budget_at_most_once(make, seed):
    search, rate = make(), rating(seed)
    history = run(search, rate)
    rated = [entry.architecture for entry in history]
    assert 1 <= len(rated) <= search.total <= search.candidates.size()
    assert search.total <= search.population * search.generations
    assert len(set(rated)) == len(rated)
    assert all(search.candidates.contains(one) for one in rated)
    assert [entry.rating for entry in history] == [rate(one) for one in rated]
    assert search.best.rating == max(entry.rating for entry in history)
    assert search.ask() == []
    generations = [entry.generation for entry in history]
    assert sorted(generations) == generations
    assert max(Counter(generations).values()) <= search.population


@examples(60)
@given(evolutions(), seeds)
def test_generations_keep_their_size_and_their_shares(search, seed):
    search = search()
    history = run(search, rating(seed))
    half = search.population // 2
    for number, group in itertools.groupby(history, lambda entry: entry.generation):
        origins = [entry.origin for entry in group]
        assert number < search.generations
        assert len(origins) <= search.population
        assert set(origins) <= {"random", "uniform", "ramp", "crossover", "mutation", "shape"}
        assert origins.count("crossover") <= half
        assert origins.count("mutation") + origins.count("shape") <= half
        assert search.shape_probability or "shape" not in origins
        if number:
            assert not {"uniform", "ramp"} & set(origins)
            continue
        assert set(origins) <= {"random", "uniform", "ramp"}
        assert search.simple_shapes or set(origins) == {"random"}
        alike = search.candidates.uniforms() if search.simple_shapes else []
        assert origins.count("uniform") == min(half, len(alike))
        assert origins.count("ramp") <= search.population // 4


@examples(80)
@given(searches, seeds)
def test_the_same_search_again_is_the_same(make, seed):
    assert run(make(), rating(seed)) == run(make(), rating(seed))


@examples(80)
@given(searches, seeds)
def test_who_is_not_among_the_best_that_it_keeps_makes_no_difference(make, seed):
    rate, whole, raced = rating(seed), make(), make()
    run(whole, rate)
    race(raced, rate)
    assert asked_for(raced.history) == asked_for(whole.history)
    assert raced.best == whole.best


@examples(60)
@given(searches, seeds)
def test_patience_ends_a_search_that_finds_nothing_better_and_no_other(make, seed):
    search, endless = make(), make()
    endless.patience = None
    history, all_of_it = run(search, rating(seed)), run(endless, rating(seed))
    assert history == all_of_it[: len(history)]
    best, idle = -math.inf, 0
    for _, group in itertools.groupby(history, lambda entry: entry.generation):
        assert idle != search.patience
        found = max(entry.rating for entry in group)
        best, idle = (found, 0) if found > best else (best, idle + 1)
    if len(history) < len(all_of_it):
        assert idle == search.patience


@examples(60)
@given(searches, seeds, st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_a_search_killed_at_any_bytes_resumes_identically(make, seed, cuts):
    rate = rating(seed)
    expected = path_of(run(make(), rate))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        assert path_of(resume(path, make(), rate)) == expected
        whole = path.read_bytes()
        for cut in cuts:
            path.write_bytes(whole[: round(cut * len(whole))])
            assert path_of(resume(path, make(), rate)) == expected
            assert path.read_bytes() == whole


# --- fronts


def dominates(one, other):
    return one != other and all(mine >= its for mine, its in zip(one, other, strict=True))


@st.composite
def clouds(draw):
    """Draw points of one to four coordinates, with many equal ones among them."""
    number = st.integers(-3, 3).map(float) | st.floats(allow_nan=False)
    count = draw(st.integers(1, 4))
    return draw(st.lists(st.tuples(*[number] * count), max_size=30))


@examples(300)
@given(clouds())
def test_the_front_holds_what_nothing_dominates_and_dominates_all_else(points):
    inside = front(points)
    assert inside == sorted(set(inside))
    chosen = [points[index] for index in inside]
    for index, point in enumerate(points):
        if index in inside:
            assert not any(dominates(other, point) for other in points)
        else:
            assert any(dominates(other, point) for other in chosen)
