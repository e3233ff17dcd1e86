"""What is best when more than one thing counts: the front of points that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of points that no other point dominates, in their order.

    A point dominates another if it is at least as large in every coordinate and larger in one.
    Equal points do not dominate each other: all of them are on the front, or none.

    Args:
        points: of the same number of coordinates, at least one; larger is better in each.

    Raises:
        ValueError: if a coordinate is not a number, or points differ in how many they have.
    """
    import numpy as np

    if not len(points):
        return []
    values = np.asarray(points, dtype=float)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError("Points must have at least one coordinate each.")
    if np.isnan(values).any():
        raise ValueError("A coordinate of a point is not a number.")
    # The best in every coordinate's order come first: they rule out most others soon.
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in values.T], axis=1)
    left = np.argsort(-ranks.sum(axis=1), kind="stable")
    chosen: list[int] = []
    while len(left):
        best = ranks[left[0]]
        remaining = ranks[left]
        equal = (remaining == best).all(axis=1)
        chosen += left[equal].tolist()
        left = left[(remaining > best).any(axis=1)]
    return sorted(chosen)
