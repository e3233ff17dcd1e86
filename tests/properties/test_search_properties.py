"""What holds for every search: on small random spaces, killed wherever chance has it."""

import itertools
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from masktas.evolve import Evolution, journal
from masktas.space import Budget, BudgetedSpace, SearchSpace, params

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
        patch_size=4,
        num_classes=3,
    )
    low, high = params(space.smallest), params(space.largest)
    most = draw(st.none() | st.integers(low, high))
    return BudgetedSpace(space, Budget(max_params=most))


@st.composite
def searches(draw):
    """Draw a function that makes the same search every time."""
    space = draw(budgeted_spaces())
    arguments = {
        "population": draw(st.integers(1, 9)),
        "generations": draw(st.integers(1, 5)),
        "parents": draw(st.integers(1, 6)),
        "depth_probability": draw(st.floats(0, 1)),
        "block_probability": draw(st.floats(0, 1)),
        "seed": draw(seeds),
    }
    return lambda: Evolution(space, **arguments)


def rating(seed):
    """Return a rating with all its digits, and with ties."""

    def rate(one):
        value = random.Random(f"{seed} {one.digest()}").gauss(0, 1)
        return value if seed % 3 else float(round(value))

    return rate


def run(search, rate):
    while not search.done:
        search.tell([rate(candidate.architecture) for candidate in search.ask()])
    return search.history


def go_on(path, search, rate):
    """Search from where the journal ends, as the search stage does."""
    known = journal.replay(path, search)
    while not search.done:
        fresh = search.ask()[len(known) :]
        ratings = [rate(candidate.architecture) for candidate in fresh]
        journal.write(path, fresh, ratings, start=len(search.history) + len(known))
        search.tell(known + ratings)
        known = []
    return search.history


@settings(max_examples=60, deadline=None)
@given(searches(), seeds)
def test_a_search_ends_and_rates_each_architecture_of_the_budget_at_most_once(search, seed):
    search, rate = search(), rating(seed)
    history = run(search, rate)
    rated = [entry.candidate.architecture for entry in history]
    assert 1 <= len(rated) <= min(search.population * search.generations, search.candidates.size())
    assert len(set(rated)) == len(rated)
    assert all(search.candidates.contains(one) for one in rated)
    assert [entry.rating for entry in history] == [rate(one) for one in rated]
    assert search.best.rating == max(entry.rating for entry in history)


@settings(max_examples=60, deadline=None)
@given(searches(), seeds)
def test_generations_keep_their_size_and_their_shares(search, seed):
    search = search()
    history = run(search, rating(seed))
    half = search.population // 2
    for number, group in itertools.groupby(history, lambda entry: entry.candidate.generation):
        origins = [entry.candidate.origin for entry in group]
        assert number < search.generations
        assert len(origins) <= search.population
        assert set(origins) <= {"random", "crossover", "mutation"}
        assert origins.count("crossover") <= half
        assert origins.count("mutation") <= half
        if number == 0:
            assert set(origins) == {"random"}


@settings(max_examples=50, deadline=None)
@given(searches(), seeds)
def test_the_same_search_again_is_the_same(search, seed):
    assert run(search(), rating(seed)) == run(search(), rating(seed))


@settings(max_examples=60, deadline=None)
@given(searches(), seeds, st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_a_search_killed_at_any_bytes_goes_on_identically(search, seed, cuts):
    rate = rating(seed)
    expected = run(search(), rate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        assert go_on(path, search(), rate) == expected
        whole = path.read_bytes()
        for cut in cuts:
            path.write_bytes(whole[: round(cut * len(whole))])
            assert go_on(path, search(), rate) == expected
            assert path.read_bytes() == whole
