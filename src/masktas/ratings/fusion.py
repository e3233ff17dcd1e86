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
NEAR = 5  # places to either side over which their slope is taken: between two it is all noise


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

        A place is no mean over images. How much one image moves it is about the slope of the places
        there, times what the image says of the network beyond what it says of the whole sample: an
        easy image moves all alike, and no place. So the spread of these numbers gives the place's
        standard error over images (delta method).

        Args:
            numbers: for each rating, a number for each of these images, `[end]`.
            end: how many of the images were looked at; the sample is ranked on the same ones.
        """
        fused = np.zeros(end)
        for name, sample in self._sample.items():
            seen, own = sample[:, :end], numbers[name][:end]
            place, slope = _place(np.sort(seen.mean(axis=1)), float(own.mean()))
            beyond = own - seen.mean(axis=0)
            fused += place + slope * (beyond - beyond.mean())
        return fused / len(self._sample)


def _place(ordered: Numbers, mean: float) -> tuple[float, float]:
    """Return the place of a mean among sorted others, and how steep places are there."""
    values, places = _distinct(ordered)
    if len(values) < 2:
        return 0.5, 0.0
    overall = float((places[-1] - places[0]) / (values[-1] - values[0]))
    if mean <= values[0]:
        return float(places[0] + overall * (mean - values[0])), overall
    if mean >= values[-1]:
        return float(places[-1] + overall * (mean - values[-1])), overall
    after = int(np.searchsorted(values, mean, side="right"))
    first, last = max(0, after - NEAR), min(len(values) - 1, after - 1 + NEAR)
    slope = float((places[last] - places[first]) / (values[last] - values[first]))
    return float(np.interp(mean, values, places)), slope


def _distinct(ordered: Numbers) -> tuple[Numbers, Numbers]:
    """Return sorted values without repetition, and their places; equals share the middle one."""
    places = (np.arange(len(ordered)) + 0.5) / len(ordered)
    values, which = np.unique(ordered, return_inverse=True)
    return values, np.bincount(which, weights=places) / np.bincount(which)
