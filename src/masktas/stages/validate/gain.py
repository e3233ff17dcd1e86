"""What choosing by a rating is worth: the true spread of networks, and the expected gain.

The best rated of N networks is expected to be `rho * i * sigma` more accurate than a random one:
rho is the correlation of the rating with the true accuracy, i the expected largest of N standard
normal numbers, and sigma the true standard deviation between networks (the breeder's equation,
Lush 1937; SPEC 6.6). It holds for normal distributions.

Shapes: n networks, m images, S seeds, R rows of counts (see `rank_correlation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from masktas.stages.validate.rank_correlation import Interval, ratio, spearman
from masktas.stages.validate.reliability import covariance, true_variance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SELECTED = (16, 1000)  # networks that the best is chosen from: those refined, those a search rates
RANGE, STEP = 9.0, 1e-3  # of the numerical integral, in standard deviations


@dataclass(frozen=True, slots=True)
class Gain:
    """What choosing by one rating is worth.

    Attributes:
        rho: correlation of the rating with the true accuracy.
        best_of: expected accuracy gained over a random network by the best rated of N, by N.
    """

    rho: Interval
    best_of: dict[int, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return all estimates as JSON types."""
        best_of = {str(count): one.to_dict() for count, one in self.best_of.items()}
        return {"rho": self.rho.to_dict(), "best_of": best_of}


@dataclass(frozen=True, slots=True)
class Spread:
    """How much networks differ in truth.

    Attributes:
        sd: standard deviation of the true accuracies, as a share.
        perfect: gain of choosing by the true accuracy.
        gains: of each rating, by name.
    """

    sd: Interval
    perfect: Gain
    gains: dict[str, Gain]

    def to_dict(self) -> dict[str, Any]:
        """Return all estimates as JSON types."""
        gains = {name: one.to_dict() for name, one in self.gains.items()}
        return {"sd": self.sd.to_dict(), "perfect": self.perfect.to_dict(), "gains": gains}


def spread(ratings: Mapping[str, Floats], correct: Floats, counts: Floats, *, seed: int) -> Spread:
    """Estimate the true spread of networks and what each rating gains of it.

    The variance of the true accuracies is the covariance of measurements that share no seed and no
    image (`true_variance`), so neither noise counts as a difference. A single seed's noise does.

    Args:
        ratings: `[n]` by name; higher is better.
        correct: `[S, n, m]`, 1 where a network is right about an image.
        counts: see `resamples`.
        seed: of the random halves of the images.
    """
    import numpy as np

    accuracy = correct.mean(axis=2).mean(axis=0)  # as everywhere, so that ties stay ties
    own = np.maximum(true_variance(correct, counts, seed=seed), 0)
    root = np.sqrt(np.clip(ratio(own, covariance(accuracy, accuracy, counts)), 0, 1))
    num_networks = counts.sum(axis=1)
    sigma = np.sqrt(ratio(own * num_networks, num_networks - 1))

    def gain(correlation: Floats) -> Gain:
        known = np.clip(ratio(correlation, root), -1, 1)
        lost = np.isfinite(correlation) & (own == 0)  # networks that do not differ: no gain
        gained = np.where(lost, 0.0, known * sigma)
        return Gain(Interval.of(known), {n: Interval.of(intensity(n) * gained) for n in SELECTED})

    of_ratings = {
        # Pearson's correlation of normal numbers with this rank correlation
        name: gain(2 * np.sin(np.pi / 6 * spearman(one, accuracy, counts)))
        for name, one in ratings.items()
    }
    return Spread(Interval.of(sigma), gain(np.where(np.isfinite(sigma), 1.0, np.nan)), of_ratings)


def intensity(count: int) -> float:
    """Return the expected largest of `count` standard normal numbers, the selection intensity."""
    below = NormalDist().cdf
    points = [STEP * (at + 0.5) for at in range(round(RANGE / STEP))]
    return STEP * sum(1 - below(x) ** count - below(-x) ** count for x in points)
