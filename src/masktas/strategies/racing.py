"""Racing: rate all candidates on a few images, drop those that cannot win, rate the rest on more.

All are rated on the same images in the same order, so two candidates are compared image by image
and the difficulty of an image cancels out. A candidate is dropped once it trails the k-th best by
more than a number of standard errors; the k best are rated on all images, so theirs are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from masktas.strategies.strategy import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


C = TypeVar("C")


def rungs(num_images: int, *, first: int = 50, factor: float = 1.5) -> list[int]:
    """Return the number of images seen after each round: `first`, `first * factor`..., all.

    In simulated searches (1,000 candidates, 2,000 images) these defaults need a sixth fewer images
    than 100 and a factor of 2, and lose none of the best either.
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
    candidates: Sequence[C],
    rate: Callable[[Sequence[C], int], NDArray[np.float64]],
    ends: Sequence[int],
    elders: NDArray[np.float64],
    *,
    keeps: int,
    confidence: float,
) -> tuple[list[Score], dict[int, NDArray[np.float64]]]:
    """Race candidates against one another and against the best of earlier generations.

    After each round the `keeps`-th best of all, elders included, is the bar. A candidate is dropped
    if it trails the bar by more than `confidence` standard errors of their paired difference. The
    uncertain quantity is the mean over all images, of which those seen so far are a sample without
    replacement: the error shrinks to 0 as it approaches all of them.

    Args:
        candidates: to rate.
        rate: returns a number for each of the first images for some candidates, `[k, images]`.
        ends: images seen after each round, ascending, at least 2; the last is all.
        elders: `[e, n]`, numbers of the best of earlier generations for each of the images.
        keeps: how many of the best must be rated on all images.
        confidence: standard errors.

    Returns:
        The scores; that of a dropped candidate is an estimate, the rating of the best plus their
        mean difference on the images that both have seen. And the numbers for each image of those
        that were rated on all, by index.
    """
    import numpy as np

    seen = np.zeros((len(candidates), ends[-1]))
    last = np.zeros(len(candidates), dtype=int)  # images that each has seen
    alive = np.arange(len(candidates))
    for end in ends:
        seen[alive, :end] = rate([candidates[int(index)] for index in alive], end)
        last[alive] = end
        if end < ends[-1]:
            most = confidence * (1 - end / ends[-1]) ** 0.5  # finite population correction
            alive = _remaining(seen[alive, :end], elders[:, :end], alive, keeps, most)
        if not len(alive):
            break
    complete = {int(index): seen[index] for index in alive if last[index] == ends[-1]}
    best = max([*elders, *complete.values()], key=lambda numbers: numbers.mean())
    scores = [
        full(seen[index]) if index in complete else _estimate(seen[index, : last[index]], best)
        for index in range(len(candidates))
    ]
    return scores, complete


def _remaining(
    seen: NDArray[np.float64],
    elders: NDArray[np.float64],
    alive: NDArray[np.int_],
    keeps: int,
    most: float,
) -> NDArray[np.int_]:
    """Return the candidates that trail the bar by at most `most` standard errors."""
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
    """Estimate the score of a candidate that was dropped after `len(numbers)` images."""
    count = len(numbers)
    ahead = numbers - best[:count]
    error = (ahead.var(ddof=1) / count + best.var(ddof=1) / len(best)) ** 0.5
    return Score(float(best.mean() + ahead.mean()), float(error), count, False)
