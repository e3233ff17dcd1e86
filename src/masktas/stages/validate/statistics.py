"""Rank correlation between measures of networks, with bootstrap intervals.

A resample of the networks is a row of counts: how often each network was drawn. Row 0 draws each
once and is the sample itself. Every statistic is a function of such rows, so a value and its
bootstrap interval are one computation. An undefined statistic (equal ratings, two networks) is NaN
in arrays and None in results.

Shapes: n networks, m images, S seeds, R rows of counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Statistic = Callable[[Floats, Floats, Floats], Floats]

LEAST = 3  # networks for a rank correlation: two agree by chance every second time
TOP = (1, 3, 5)
SPLITS = 20  # random halves that are averaged
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


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of a rating with accuracy.

    Attributes:
        tau: Kendall's tau-b.
        rho: Spearman's rho.
        partial: Spearman's rho, given the number of parameters.
        gain: tau minus the tau of the best rating that depends on size only.
        regret: accuracy lost by looking only at the k best rated, by k.
        gain_p, partial_p: p values of `gain` and `partial` being 0, corrected for the number of
            compared ratings (Holm); None where undefined.
    """

    tau: Interval
    rho: Interval
    partial: Interval
    gain: Interval
    regret: dict[int, Interval]
    gain_p: float | None = None
    partial_p: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all estimates as JSON types."""
        named = {name: getattr(self, name) for name in ("tau", "rho", "partial", "gain")}
        return {
            **{name: one.to_dict() for name, one in named.items()},
            "regret": {str(k): one.to_dict() for k, one in self.regret.items()},
            "gain_p": self.gain_p,
            "partial_p": self.partial_p,
        }


@dataclass(frozen=True, slots=True)
class Reliability:
    """Agreement of a measure with itself.

    Attributes:
        tau, rho: between two measurements of the same networks.
        corrected: rho expected between two measurements twice as long (Spearman-Brown).
    """

    tau: Interval
    rho: Interval
    corrected: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return all estimates as JSON types."""
        return {name: getattr(self, name).to_dict() for name in ("tau", "rho", "corrected")}


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

    if not _rankable(x, y):
        return np.full(len(counts), np.nan)
    of_x, of_y = (np.sign(one[:, None] - one[None, :]) for one in (x, y))
    both, untied_x, untied_y = (
        ((counts @ pairs) * counts).sum(axis=1) for pairs in (of_x * of_y, of_x**2, of_y**2)
    )
    return _over(both, np.sqrt(untied_x * untied_y))


def spearman(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Return Spearman's rho of `x [n]` and `y [n]` in every resample, `[R]`; ties share ranks."""
    import numpy as np

    if not _rankable(x, y):
        return np.full(len(counts), np.nan)
    of_x, of_y = _ranks(x, counts), _ranks(y, counts)
    both, square_x, square_y = (
        (counts * product).sum(axis=1) for product in (of_x * of_y, of_x**2, of_y**2)
    )
    return _over(both, np.sqrt(square_x * square_y))


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
    return _over(xy - xz * yz, np.sqrt(np.where(left > ALIKE, left, 0.0)))


def regret(rating: Floats, accuracy: Floats, counts: Floats, k: int) -> Floats:
    """Return the best accuracy minus the best accuracy of the k best rated, in every resample.

    Among equal ratings the least accurate is taken first. Networks drawn several times count once.
    Undefined for k networks or fewer, or if all ratings are equal.
    """
    import numpy as np

    if not _rankable(rating, accuracy) or k >= len(rating) or np.ptp(rating) == 0:
        return np.full(len(counts), np.nan)
    order = np.lexsort((accuracy, -rating))
    there = counts[:, order] > 0
    top = there & (there.cumsum(axis=1) <= k)
    best = (np.where(one, accuracy[order], -np.inf).max(axis=1) for one in (there, top))
    of_all, of_top = best
    return np.asarray(of_all - of_top)


def spearman_brown(reliability: Floats, times: float = 2.0) -> Floats:
    """Return the reliability of a measure `times` as long (Spearman 1910, Brown 1910).

    Undefined below -1 / (times - 1), where it has a pole.
    """
    return _over(times * reliability, 1 + (times - 1) * reliability)


def compare(
    ratings: Mapping[str, Floats],
    accuracy: Floats,
    params: Floats,
    counts: Floats,
    *,
    of_size: Sequence[str],
) -> dict[str, Agreement]:
    """Compare ratings `[n]` with accuracy `[n]`, all on the same resamples.

    Args:
        ratings: by name; higher is better.
        accuracy: of each network.
        params: of each network.
        counts: see `resamples`.
        of_size: names of the ratings that depend on size only.
    """
    import numpy as np

    taus = {name: kendall(one, accuracy, counts) for name, one in ratings.items()}
    sizes = [taus[name] for name in of_size if np.isfinite(taus[name][0])]
    baseline = max(sizes, key=lambda tau: float(tau[0]), default=np.zeros(len(counts)))
    others = [name for name in ratings if name not in of_size]
    gains = {name: taus[name] - baseline for name in others}
    partials = {
        name: partial_spearman(one, accuracy, params, counts) for name, one in ratings.items()
    }
    gain_p, partial_p = (
        holm({name: p_value(values[name]) for name in others}) for values in (gains, partials)
    )
    return {
        name: Agreement(
            tau=Interval.of(taus[name]),
            rho=Interval.of(spearman(one, accuracy, counts)),
            partial=Interval.of(partials[name]),
            gain=Interval.of(gains[name]) if name in gains else Interval(None),
            regret={k: Interval.of(regret(one, accuracy, counts, k)) for k in TOP},
            gain_p=gain_p.get(name),
            partial_p=partial_p.get(name),
        )
        for name, one in ratings.items()
    }


def p_value(values: Floats) -> float | None:
    """Return the two-sided p value of a statistic being 0, from its resamples `[R]`.

    Twice the share of resamples on the other side of 0, the sample itself counted among them
    (Davison and Hinkley 1997, 4.2). It is below 0.05 about where the 95 % interval excludes 0, and
    at least 2 / R. None where undefined.
    """
    import numpy as np

    rows = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(rows) or 2 * len(rows) < len(values) - 1:
        return None
    beyond = min(int((rows <= 0).sum()), int((rows >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + len(rows)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """Correct p values for multiple comparisons (Holm 1979).

    The probability that any true null hypothesis gets below 0.05 is at most 0.05. Undefined values
    do not count as comparisons.
    """
    known = {name: p for name, p in p_values.items() if p is not None}
    corrected: dict[str, float] = {}
    most = 0.0
    for done, name in enumerate(sorted(known, key=lambda name: known[name])):
        most = max(most, min(1.0, (len(known) - done) * known[name]))
        corrected[name] = most
    return corrected


def split_half(
    values: Floats | Sequence[Floats], counts: Floats, *, seed: int, splits: int = SPLITS
) -> Reliability:
    """Return the agreement of the ranking on one half of the images with that on the other.

    Args:
        values: `[n, m]`, of each network on each image; no labels are needed. For several such
            arrays, networks are compared by their mean rank.
        counts: see `resamples`.
        seed: of the random halves.
        splits: number of random halves that are averaged.
    """
    import numpy as np

    several = values if isinstance(values, Sequence) else [values]
    once = np.ones((1, len(several[0])))

    def measured(images: NDArray[np.int64]) -> Floats:
        means = np.stack([one[:, images].mean(axis=1) for one in several])
        ranks = np.concatenate([_ranks(one, once) for one in means])
        return np.asarray(means[0] if len(means) == 1 else ranks.mean(axis=0))

    pairs = (
        (measured(one), measured(other))
        for one, other in _halves(several[0].shape[1], splits, seed)
    )
    return _reliability(list(pairs), counts)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The highest agreement with measured accuracy that a rating can reach, given its noise.

    Attributes:
        halves: between two halves of the test images.
        seeds: between two seeds of the probe.
        reliability: share of the variance of measured accuracy that is due to the networks.
        tau, rho: of the true accuracy with the measured one.
    """

    halves: Reliability
    seeds: Reliability
    reliability: Interval
    tau: Interval
    rho: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return all estimates as JSON types."""
        names = ("halves", "seeds", "reliability", "tau", "rho")
        return {name: getattr(self, name).to_dict() for name in names}


def ceiling(correct: Floats, counts: Floats, *, seed: int, splits: int = SPLITS) -> Ceiling:
    """Return the ceiling of agreement with measured accuracy.

    Two measurements that share no images and no seed have independent noise, so their covariance
    is the variance of the true accuracies; divided by the variance of the measured accuracies it
    is the reliability (Guttman 1945, lambda 4, extended to seeds). A correlation with a measure is
    at most the square root of its reliability (Spearman 1904); tau and rho follow as for a normal
    distribution. With a single seed, its noise is counted as variance of the networks.

    Args:
        correct: `[S, n, m]`, 1 where a network is right about an image.
        counts: see `resamples`.
        seed: of the random halves.
        splits: number of random halves that are averaged.
    """
    import numpy as np

    accuracy = correct.mean(axis=2)
    seeds = list(itertools.permutations(range(len(correct)), 2))
    apart = [
        (correct[a][:, one].mean(axis=1), correct[b][:, other].mean(axis=1))
        for one, other in _halves(correct.shape[2], splits, seed)
        for a, b in seeds or [(0, 0)]
    ]
    mean = accuracy.mean(axis=0)
    own = _mean(_covariance, apart, counts)
    reliability = np.clip(_over(own, _covariance(mean, mean, counts)), 0, 1)
    root = np.sqrt(reliability)
    return Ceiling(
        halves=split_half(correct.mean(axis=0), counts, seed=seed, splits=splits),
        seeds=_reliability([(accuracy[a], accuracy[b]) for a, b in seeds if a < b], counts),
        reliability=Interval.of(reliability),
        tau=Interval.of(2 / np.pi * np.arcsin(root)),
        rho=Interval.of(6 / np.pi * np.arcsin(root / 2)),
    )


def _covariance(x: Floats, y: Floats, counts: Floats) -> Floats:
    import numpy as np

    if not _rankable(x, y):
        return np.full(len(counts), np.nan)
    shares = counts / counts.sum(axis=1, keepdims=True)
    x, y = x - x.mean(), y - y.mean()
    return np.asarray(shares @ (x * y) - (shares @ x) * (shares @ y))


def _reliability(pairs: Sequence[tuple[Floats, Floats]], counts: Floats) -> Reliability:
    """Average over pairs of measurements, `[n]` each, without undefined ones."""
    rho = _mean(spearman, pairs, counts)
    tau = _mean(kendall, pairs, counts)
    return Reliability(*(Interval.of(one) for one in (tau, rho, spearman_brown(rho))))


def _mean(statistic: Statistic, pairs: Sequence[tuple[Floats, Floats]], counts: Floats) -> Floats:
    import numpy as np

    total, defined = np.zeros(len(counts)), np.zeros(len(counts))
    for x, y in pairs:
        values = statistic(x, y, counts)
        total += np.nan_to_num(values)
        defined += np.isfinite(values)
    return _over(total, defined)


def _halves(
    num_images: int, splits: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the image numbers of two random halves; one image of an odd number is left out."""
    import numpy as np

    rng = np.random.default_rng(seed)
    half = num_images // 2
    for _ in range(splits if half else 0):
        order = rng.permutation(num_images)
        yield order[:half], order[half : 2 * half]


def _ranks(x: Floats, counts: Floats) -> Floats:
    """Return each network's rank minus the mean rank, in every resample, `[R, n]`."""
    below = x[:, None] < x[None, :]
    alike = x[:, None] == x[None, :]
    ranks: Floats = counts @ (below + 0.5 * alike) - counts.sum(axis=1, keepdims=True) / 2
    return ranks


def _rankable(x: Floats, y: Floats) -> bool:
    import numpy as np

    return len(x) >= LEAST and bool(np.isfinite(x).all() and np.isfinite(y).all())


def _over(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN where the denominator is not above 0."""
    import numpy as np

    undefined = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)
    return undefined
