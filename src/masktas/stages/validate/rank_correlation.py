"""Rank correlation between measures of networks, with bootstrap intervals.

A resample of the networks is a row of counts: how often each network was drawn. Row 0 draws each
once and is the sample itself. Every statistic is a function of such rows, so a value and its
bootstrap interval are one computation. An undefined statistic (equal ratings, two networks) is NaN
in arrays and None in results.

Shapes: n networks, R rows of counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEAST = 3  # networks for a rank correlation: two agree by chance every second time
LEVEL = 0.95
ALIKE = 1e-9  # rounding error of squared correlations


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its confidence interval; None where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Floats) -> Interval:
        """Read row 0 as the value and the other rows as its bootstrap (percentile interval)."""
        import numpy as np

        if not np.isfinite(values[0]):
            return cls(None)
        rows = values[1:][np.isfinite(values[1:])]
        if not len(rows) or 2 * len(rows) < len(values) - 1:  # undefined in most resamples
            return cls(float(values[0]))
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(rows, [tail, 1 - tail]).tolist()
        return cls(float(values[0]), low, high)

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low is not None and self.low > 0

    def to_dict(self) -> dict[str, float | None]:
        """Return value and interval."""
        return {"value": self.value, "low": self.low, "high": self.high}


def resamples(num_networks: int, num_resamples: int, seed: int) -> Floats:
    """Draw networks with replacement, `num_resamples` times: counts `[1 + num_resamples, n]`."""
    import numpy as np

    rng = np.random.default_rng(seed)
    even = np.full(num_networks, 1 / num_networks)
    drawn = rng.multinomial(num_networks, even, size=num_resamples)
    return np.concatenate([np.ones((1, num_networks)), drawn])


def kendall(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Return Kendall's tau-b of `x [n]` and `y [n]` in every resample, `[R]`.

    Pairs in the same order less pairs in the other, over the geometric mean of the pairs that are
    not tied in `x` and of those not tied in `y` (Kendall 1945). A network drawn twice is a tie.
    """
    import numpy as np

    if not rankable(x, y):
        return np.full(len(counts), np.nan)
    of_x, of_y = (np.sign(one[:, None] - one[None, :]) for one in (x, y))
    both, untied_x, untied_y = (
        ((counts @ pairs) * counts).sum(axis=1) for pairs in (of_x * of_y, of_x**2, of_y**2)
    )
    return ratio(both, np.sqrt(untied_x * untied_y))


def spearman(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Return Spearman's rho of `x [n]` and `y [n]` in every resample, `[R]`; ties share ranks."""
    import numpy as np

    if not rankable(x, y):
        return np.full(len(counts), np.nan)
    of_x, of_y = ranks(x, counts), ranks(y, counts)
    both, square_x, square_y = (
        (counts * product).sum(axis=1) for product in (of_x * of_y, of_x**2, of_y**2)
    )
    return ratio(both, np.sqrt(square_x * square_y))


def partial_spearman(x: Floats, y: Floats, given: Floats, counts: Floats) -> Floats:
    """Return the partial Spearman's rho of `x` and `y`, controlling for `given [n]`, `[R]`.

    `(r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2))` over ranks, so it is the same for
    a logarithm of `given`. Undefined where `x` or `y` has the same or the reverse ranks of `given`.
    """
    import numpy as np

    if len(x) <= LEAST:  # three networks leave no degree of freedom
        return np.full(len(counts), np.nan)
    xy, xz, yz = (spearman(*pair, counts) for pair in ((x, y), (x, given), (y, given)))
    left = (1 - xz**2) * (1 - yz**2)
    return ratio(xy - xz * yz, np.sqrt(np.where(left > ALIKE, left, 0.0)))


def regret(rating: Floats, accuracy: Floats, counts: Floats, k: int) -> Floats:
    """Return the best accuracy minus the best accuracy of the k best rated, in every resample.

    Among equal ratings the least accurate is taken first. Networks drawn several times count once.
    Undefined for k networks or fewer, or if all ratings are equal.
    """
    import numpy as np

    if not rankable(rating, accuracy) or k >= len(rating) or np.ptp(rating) == 0:
        return np.full(len(counts), np.nan)
    order = np.lexsort((accuracy, -rating))
    there = counts[:, order] > 0
    top = there & (there.cumsum(axis=1) <= k)
    best = (np.where(one, accuracy[order], -np.inf).max(axis=1) for one in (there, top))
    of_all, of_top = best
    return np.asarray(of_all - of_top)


def ranks(x: Floats, counts: Floats) -> Floats:
    """Return each network's rank minus the mean rank, in every resample, `[R, n]`."""
    below = x[:, None] < x[None, :]
    alike = x[:, None] == x[None, :]
    found: Floats = counts @ (below + 0.5 * alike) - counts.sum(axis=1, keepdims=True) / 2
    return found


def rankable(x: Floats, y: Floats) -> bool:
    """Return whether there are enough networks, and all their numbers are finite."""
    import numpy as np

    return len(x) >= LEAST and bool(np.isfinite(x).all() and np.isfinite(y).all())


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN where the denominator is not above 0."""
    import numpy as np

    undefined = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)
    return undefined
