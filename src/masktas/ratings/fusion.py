"""Fuse ratings by rank: the mean rank of a network among a sample, by several ratings.

Ratings differ in unit and spread; relative ranks do not. The sample of networks within the budget
is drawn once, so a fused rating does not depend on the other candidates of a search.

Shapes: R networks of the sample, n images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
NEAR = 5  # ranks on either side over which the slope is taken: two neighbours give noise only


class Fusion:
    """The mean relative rank of a network among a sample, by several ratings; 0 last, 1 first.

    Between two networks of the sample the rank is interpolated; beyond the best and the worst it
    is extrapolated along the line through the sample, so that a better rating gives a higher rank.

    Args:
        sample: for each rating, numbers of each network of the sample for each image, `[R, n]`.
    """

    def __init__(self, sample: Mapping[str, Numbers]) -> None:
        self._sample = dict(sample)

    def __call__(self, numbers: Mapping[str, Numbers], end: int) -> Numbers:
        """Return a number for each of the first `end` images; their mean is the fused rating.

        A rank is not a mean over images. One image changes it by about the slope of the ranks
        there, times its number for the network less its mean over the sample: an easy image raises
        all numbers and changes no rank. The spread of the returned numbers so gives the standard
        error of the rank over images (delta method).

        Args:
            numbers: for each rating, a number for each of these images, `[end]`.
            end: number of images that were rated; the sample is ranked on the same ones.
        """
        fused = np.zeros(end)
        for name, sample in self._sample.items():
            seen, own = sample[:, :end], numbers[name][:end]
            rank, slope = _rank(np.sort(seen.mean(axis=1)), float(own.mean()))
            beyond = own - seen.mean(axis=0)
            fused += rank + slope * (beyond - beyond.mean())
        return fused / len(self._sample)


def _rank(ordered: Numbers, mean: float) -> tuple[float, float]:
    """Return the relative rank of a mean among sorted others, and the slope of ranks there."""
    values, ranks = _distinct(ordered)
    if len(values) < 2:
        return 0.5, 0.0
    overall = float((ranks[-1] - ranks[0]) / (values[-1] - values[0]))
    if mean <= values[0]:
        return float(ranks[0] + overall * (mean - values[0])), overall
    if mean >= values[-1]:
        return float(ranks[-1] + overall * (mean - values[-1])), overall
    after = int(np.searchsorted(values, mean, side="right"))
    first, last = max(0, after - NEAR), min(len(values) - 1, after - 1 + NEAR)
    slope = float((ranks[last] - ranks[first]) / (values[last] - values[first]))
    return float(np.interp(mean, values, ranks)), slope


def _distinct(ordered: Numbers) -> tuple[Numbers, Numbers]:
    """Return sorted values without repetition and their ranks; equal values share the mean."""
    ranks = (np.arange(len(ordered)) + 0.5) / len(ordered)
    values, which = np.unique(ordered, return_inverse=True)
    return values, np.bincount(which, weights=ranks) / np.bincount(which)
