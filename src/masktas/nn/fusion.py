"""Fuse ratings by rank: a network's place among others by one, and by another, on average.

Ratings differ in unit and spread; places do not. The others are a sample of networks within the
budget, drawn once, so a network's fused rating does not hang on who else was searched.

Shapes: R networks of the sample, n images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Fusion:
    """The mean place of a network among a sample, by several ratings: 0 the last, 1 the first.

    Between two of the sample a place is interpolated; beyond the best and the worst it goes on
    along the line through the sample, so that better stays better.

    Args:
        sample: for each rating, numbers of each network of the sample for each image, `[R, n]`.
    """

    def __init__(self, sample: Mapping[str, Numbers]) -> None:
        self._sample = dict(sample)

    def __call__(self, numbers: Mapping[str, Numbers], end: int) -> Numbers:
        """Return a number for each of the first `end` images; their mean is the fused rating.

        A place is no mean over images; how much one image moves it is the slope of the place at the
        network's mean, so the spread of these numbers gives its standard error (delta method).

        Args:
            numbers: for each rating, a number for each of these images, `[end]`.
            end: how many of the images were looked at; the sample is ranked on the same ones.
        """
        fused = np.zeros(end)
        for name, sample in self._sample.items():
            mean = numbers[name].mean()
            place, slope = _place(np.sort(sample[:, :end].mean(axis=1)), float(mean))
            fused += place + slope * (numbers[name] - mean)
        return fused / len(self._sample)


def _place(ordered: Numbers, mean: float) -> tuple[float, float]:
    """Return the place of a mean among sorted others, and the slope of places there."""
    values, places = _distinct(ordered)
    if len(values) < 2:
        return 0.5, 0.0
    overall = float((places[-1] - places[0]) / (values[-1] - values[0]))
    if mean <= values[0]:
        return float(places[0] + overall * (mean - values[0])), overall
    if mean >= values[-1]:
        return float(places[-1] + overall * (mean - values[-1])), overall
    after = int(np.searchsorted(values, mean, side="right"))
    slope = float((places[after] - places[after - 1]) / (values[after] - values[after - 1]))
    return float(places[after - 1] + slope * (mean - values[after - 1])), slope


def _distinct(ordered: Numbers) -> tuple[Numbers, Numbers]:
    """Return sorted values without repetition, and their places; equals share the middle one."""
    places = (np.arange(len(ordered)) + 0.5) / len(ordered)
    values, which = np.unique(ordered, return_inverse=True)
    return values, np.bincount(which, weights=places) / np.bincount(which)
