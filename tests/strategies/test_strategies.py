"""What every strategy promises; on ratings that need no images."""

import subprocess
import sys
import time

import pytest

from landscapes import ALL, ENDLESS, FEW, MICRO, SMALL, architectures, rough, run, smooth
from masktas.errors import ArtifactError, ConfigError, MasktasError
from masktas.space import Budget, BudgetedSpace
from masktas.strategies import (
    NSGA2,
    Evolution,
    Exhaustive,
    LocalSearch,
    RandomSearch,
    Score,
    journal,
)


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
