"""The Pareto front: the points that no other point dominates."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other point dominates, in their order.

    A point dominates another if it is at least as large in every coordinate and larger in one.
    Equal points do not dominate each other: all of them are on the front, or none.

    Args:
        points: of the same number of coordinates, at least one; larger is better in each.

    Raises:
        ValueError: if a coordinate is NaN, or points differ in their number of coordinates.
    """
    import numpy as np

    if not len(points):
        return []
    values = np.asarray(points, dtype=float)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError("Points must have at least one coordinate each.")
    if np.isnan(values).any():
        raise ValueError("A coordinate of a point is not a number.")
    # In descending order of the first coordinate, then of the next: a point that dominates another
    # comes before it, and is at least as large in the first coordinate.
    distinct, place = np.unique(values, axis=0, return_inverse=True)
    chosen = np.zeros(len(distinct), dtype=bool)
    others = np.empty((values.shape[1] - 1, len(distinct)))  # of those chosen so far
    count = 0
    for at in range(len(distinct) - 1, -1, -1):
        point = distinct[at, 1:]
        if not (others[:, :count] >= point[:, None]).all(axis=0).any():
            others[:, count] = point
            count += 1
            chosen[at] = True
    return [int(index) for index in np.flatnonzero(chosen[place.reshape(-1)])]
