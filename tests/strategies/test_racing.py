"""Racing: losers leave early, and what it says of the winners is what rating all would."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from masktas.strategies import Score
from masktas.strategies.racing import full, race, rungs

NONE = np.zeros((0, 400))
ENDS = [50, 100, 200, 400]


@dataclass
class Field:
    """Candidates with a number for each image, who notes what is looked at."""

    numbers: np.ndarray
    looked: list[tuple[list[int], int]] = field(default_factory=list)

    def __call__(self, which: Sequence[int], end: int) -> np.ndarray:
        self.looked.append((list(which), end))
        return self.numbers[list(which), :end]

    @property
    def images(self) -> int:
        """Looks at a new image, all candidates together."""
        seen: dict[int, int] = {}
        for which, end in self.looked:
            seen |= dict.fromkeys(which, end)
        return sum(seen.values())

    def order(self) -> list[int]:
        """Return the candidates, truly best first."""
        return np.argsort(-self.numbers.mean(axis=1), kind="stable").tolist()


def problem(
    seed: int, *, num: int = 30, images: int = 400, apart: float = 0.03, own: float = 0.05
) -> Field:
    """Some candidates are better, some images easier for all, and some for those that are good."""
    rng = np.random.default_rng(seed)
    better = rng.normal(0, apart, (num, 1))
    easier = rng.normal(0, 0.3, images)
    gain = 1 + rng.normal(0, 0.05, (num, 1))
    return Field(better + gain * easier + rng.normal(0, own, (num, images)))


def raced(
    candidates: Field, *, keeps: int = 5, confidence: float = 4.0, elders: np.ndarray = NONE
) -> tuple[list[Score], dict[int, np.ndarray]]:
    return race(
        range(len(candidates.numbers)), candidates, ENDS, elders, keeps=keeps, confidence=confidence
    )


def test_rounds_grow_by_half_and_the_last_has_all_images() -> None:
    assert rungs(2000) == [50, 75, 112, 168, 253, 379, 569, 854, 1281, 2000]
    assert rungs(2000, first=100, factor=2) == [100, 200, 400, 800, 2000]
    assert rungs(74) == [74]
    for count in (1, 2, 49, 50, 75, 76, 1000, 12_345):
        ends = rungs(count)
        assert ends == sorted(set(ends))
        assert ends[-1] == count
        assert all(later >= 1.49 * end for end, later in itertools.pairwise(ends))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=50))
def test_a_full_score_is_numpys_mean_and_standard_error(numbers: list[float]) -> None:
    score = full(np.array(numbers))
    mean = sum(numbers) / len(numbers)
    squares = sum((one - mean) ** 2 for one in numbers)
    assert score.rating == pytest.approx(mean, abs=1e-9)
    error = math.sqrt(squares / (len(numbers) - 1) / len(numbers))
    assert score.error == pytest.approx(error, abs=1e-9)
    assert (score.images, score.complete) == (len(numbers), True)


def test_what_hangs_on_no_image_has_no_error() -> None:
    assert full(np.full(7, 5_730_000.0)).error == 0
    assert full(np.array([3.0])) == Score(3.0, None, 1, True)


def test_separable_losers_leave_at_the_first_look_and_the_best_stay() -> None:
    candidates = problem(0, apart=3.0)
    scores, complete = raced(candidates)
    assert [len(which) for which, _ in candidates.looked] == [30, 5, 5, 5]
    assert sorted(complete) == sorted(candidates.order()[:5])
    assert [score.images for score in scores].count(50) == 25
    assert candidates.images == 25 * 50 + 5 * 400


@examples(60)
@given(
    st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.01, 0.03, 0.1]),
    st.sampled_from([0.02, 0.1, 0.3]),
)  # fmt: skip
def test_the_best_and_their_order_are_what_rating_all_would_say(
    seed: int, keeps: int, apart: float, own: float
) -> None:
    candidates = problem(seed, apart=apart, own=own)
    scores, complete = raced(candidates, keeps=keeps)
    ranked = sorted(complete, key=lambda index: -scores[index].rating)
    assert ranked[:keeps] == candidates.order()[:keeps]
    for index, score in enumerate(scores):
        assert score.complete == (index in complete)
        if score.complete:
            assert score == full(candidates.numbers[index])
            np.testing.assert_array_equal(complete[index], candidates.numbers[index])


def test_most_work_is_saved_where_images_move_all_alike() -> None:
    candidates = problem(1, num=200, own=0.02)
    _, complete = raced(candidates)
    assert candidates.images < 200 * 400 / 3
    assert set(candidates.order()[:5]) <= set(complete)
    each = problem(1, num=200, own=0.02)  # the same, each seeing other images
    rng = np.random.default_rng(2)
    each.numbers = np.array([rng.permutation(one) for one in each.numbers])
    raced(each)
    assert each.images > 2 * candidates.images


@pytest.mark.parametrize(
    ("behind", "images"), [(0.6, 50), (0.4, 100), (0.24, 200), (0.15, 400), (-0.1, 400)]
)
def test_who_is_clearly_behind_leaves_and_is_the_clearer_the_fewer_images_are_left(
    behind: float, images: int
) -> None:
    """Thresholds are 4 sqrt(1 / seen - 1 / 400): 0.529, 0.346, 0.2 standard deviations."""
    spread = np.tile([1.0, -1.0], 200)
    best = 3 * np.random.default_rng(0).normal(size=400)
    candidates = Field(np.stack([best, best - behind - spread]))
    scores, _ = raced(candidates, keeps=1)
    assert scores[1].images == images
    assert scores[1].complete == (images == 400)


def test_nobody_is_looked_at_again_after_leaving_nor_on_fewer_images() -> None:
    candidates = problem(3)
    scores, _ = raced(candidates)
    for (before, end), (after, later) in itertools.pairwise(candidates.looked):
        assert set(after) <= set(before)
        assert later > end
    for index, score in enumerate(scores):
        last = max(end for which, end in candidates.looked if index in which)
        assert score.images == last


@pytest.mark.parametrize("keeps", [30, 31, 1000])
def test_none_is_dropped_where_all_matter(keeps: int) -> None:
    candidates = problem(4, apart=3.0)
    scores, complete = raced(candidates, keeps=keeps)
    assert len(complete) == 30
    assert scores == [full(one) for one in candidates.numbers]


def test_the_best_of_before_set_the_bar() -> None:
    candidates = problem(5, apart=0.5)
    best = candidates.numbers[candidates.order()[0]]
    elders = np.stack([best + gap for gap in (3.0, 2.0, 1.0)])
    _, complete = raced(candidates, keeps=3, elders=elders)
    assert not complete, "none can be among the three best"
    _, complete = raced(candidates, keeps=4, elders=elders)
    assert candidates.order()[0] in complete
    assert len(complete) <= 3, "who is near the bar stays"
    low = np.stack([best - gap for gap in (300.0, 200.0, 100.0)])
    _, beside = raced(candidates, keeps=4, elders=low)
    _, without = raced(candidates, keeps=4)
    assert beside.keys() == without.keys(), "bad ones of before do not matter"


def test_all_may_leave_and_still_have_scores_relative_to_the_best_of_before() -> None:
    candidates = problem(6, apart=0.02)
    elder = candidates.numbers.max(axis=0, keepdims=True) + 5
    scores, complete = raced(candidates, keeps=1, elders=elder)
    assert not complete
    assert len(candidates.looked) == 1
    true = candidates.numbers.mean(axis=1)
    for score, mean in zip(scores, true, strict=True):
        assert not score.complete
        assert score.images == 50
        assert abs(score.rating - mean) < 5 * (score.error or 0)


def test_estimates_of_those_that_left_are_about_right_and_less_noisy_than_their_images() -> None:
    z, naive = [], []
    for seed in range(30):
        candidates = problem(seed, apart=0.1, own=0.1)
        scores, _ = raced(candidates)
        for numbers, score in zip(candidates.numbers, scores, strict=True):
            if not score.complete and score.images is not None and score.error is not None:
                z.append((score.rating - numbers.mean()) / score.error)
                naive.append(abs(numbers[: score.images].mean() - numbers.mean()))
                assert score.images < 400
    assert len(z) > 300
    assert abs(np.mean(z)) < 0.5
    assert np.std(z) < 1.3
    error = np.mean([abs(one) for one in z]) * 0.02
    assert error < np.mean(naive)


def test_equal_candidates_stay_together() -> None:
    one = problem(7, num=1).numbers
    candidates = Field(np.concatenate([one] * 6 + [one - 1e-3]))
    _, complete = raced(candidates, keeps=2)
    assert sorted(complete) == [0, 1, 2, 3, 4, 5]


def test_no_candidates_and_one() -> None:
    assert raced(Field(np.zeros((0, 400))), elders=np.ones((1, 400))) == ([], {})
    candidates = problem(8, num=1)
    scores, _ = raced(candidates, keeps=1)
    assert scores == [full(candidates.numbers[0])]


def test_a_rating_that_is_not_finite_is_refused() -> None:
    candidates = problem(9)
    candidates.numbers[3, 7] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Exception, match="not finite"):
            raced(candidates)
