"""Racing: rate all on a few images, drop those that cannot win, go on with the others.

All see the same images in the same order, so two networks are compared image by image, and what
makes an image easy or hard for both falls out. Whoever is clearly worse than the last of those that
matter is dropped; what matters is rated on all images, so its rating is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from masktas.strategies.strategy import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Which of the candidates, and how many images: a number for each of these images, [k, images].
Values = Callable[[Sequence[int], int], "NDArray[np.float64]"]


def rungs(num_images: int, *, first: int = 50, factor: float = 1.5) -> list[int]:
    """Return how many images have been seen after each round: `first`, `first * factor`..., all.

    In simulated searches (1,000 candidates, 2,000 images) so many rounds look at a sixth fewer
    images than 100 and doubling do, and lose none of the best either.
    """
    ends = []
    end = float(first)
    while end * factor <= num_images:
        ends.append(int(end))
        end *= factor
    return [*ends, num_images]


def full(values: NDArray[np.float64]) -> Score:
    """Score a network by its number for each image, `[n]`: mean and standard error."""
    count = len(values)
    error = float(values.std(ddof=1) / count**0.5) if count > 1 else None
    return Score(float(values.mean()), error, count, True)


def race(
    num: int,
    values: Values,
    ends: Sequence[int],
    elders: NDArray[np.float64],
    *,
    keeps: int,
    confidence: float,
) -> tuple[list[Score], dict[int, NDArray[np.float64]]]:
    """Race `num` candidates against one another and against the best of before.

    After each round the `keeps`-th best of all, elders included, is the bar. A candidate is dropped
    if it is below the bar by more than `confidence` standard errors of the difference of the two,
    taken image by image. What is uncertain is the mean over all the images, of which those seen are
    a part drawn without replacement: having seen nearly all, one is nearly sure.

    Args:
        num: candidates.
        values: rates some of them on the first so many images.
        ends: images seen after each round, ascending, 2 at least; the last is all.
        elders: `[e, n]`, numbers of the best of before for each of the images.
        keeps: how many of the best have to be right.
        confidence: standard errors.

    Returns:
        The scores; that of a dropped one is an estimate, the rating of the best plus their mean
        difference on the images that both have seen. And the numbers for each image of those that
        were rated on all.
    """
    import numpy as np

    seen = np.zeros((num, ends[-1]))
    last = np.zeros(num, dtype=int)  # images that each has seen
    alive = np.arange(num)
    for end in ends:
        seen[alive, :end] = values([int(index) for index in alive], end)
        last[alive] = end
        if end < ends[-1]:
            most = confidence * (1 - end / ends[-1]) ** 0.5  # of a finite population
            alive = _left(seen[alive, :end], elders[:, :end], alive, keeps, most)
        if not len(alive):
            break
    complete = {int(index): seen[index] for index in alive if last[index] == ends[-1]}
    whole = [*elders, *complete.values()]
    best = max(whole, key=lambda numbers: numbers.mean())
    scores = [
        full(seen[index]) if index in complete else _estimate(seen[index, : last[index]], best)
        for index in range(num)
    ]
    return scores, complete


def _left(
    seen: NDArray[np.float64],
    elders: NDArray[np.float64],
    alive: NDArray[np.int_],
    keeps: int,
    most: float,
) -> NDArray[np.int_]:
    """Return which candidates are not behind by more than `most` standard errors of a mean."""
    import numpy as np

    everyone = np.concatenate([elders, seen])
    if len(everyone) <= keeps:
        return alive
    order = np.argsort(-everyone.mean(axis=1), kind="stable")
    behind = everyone[order[keeps - 1]] - seen  # [candidates, images]
    error = behind.std(axis=1, ddof=1) / behind.shape[1] ** 0.5
    stays: NDArray[np.bool_] = behind.mean(axis=1) <= most * error
    return alive[stays]


def _estimate(numbers: NDArray[np.float64], best: NDArray[np.float64]) -> Score:
    """Score a candidate that was dropped after `len(numbers)` images."""
    count = len(numbers)
    ahead = numbers - best[:count]
    error = (ahead.var(ddof=1) / count + best.var(ddof=1) / len(best)) ** 0.5
    return Score(float(best.mean() + ahead.mean()), float(error), count, False)
