"""Reliability of a measure of networks: its agreement with itself, and the ceiling that it sets.

Shapes: n networks, m images, S seeds, R rows of counts (see `rank_correlation`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masktas.stages.validate.rank_correlation import (
    Interval,
    kendall,
    rankable,
    ranks,
    ratio,
    spearman,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Statistic = Callable[[Floats, Floats, Floats], Floats]

SPLITS = 20  # random halves that are averaged


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


def spearman_brown(reliability: Floats, times: float = 2.0) -> Floats:
    """Return the reliability of a measure `times` as long (Spearman 1910, Brown 1910).

    Undefined below -1 / (times - 1), where it has a pole.
    """
    return ratio(times * reliability, 1 + (times - 1) * reliability)


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
        if len(means) == 1:
            return np.asarray(means[0])
        return np.asarray(np.concatenate([ranks(one, once) for one in means]).mean(axis=0))

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
    seeds = itertools.combinations(range(len(correct)), 2)
    mean = accuracy.mean(axis=0)
    own = true_variance(correct, counts, seed=seed, splits=splits)
    reliability = np.clip(ratio(own, covariance(mean, mean, counts)), 0, 1)
    root = np.sqrt(reliability)
    return Ceiling(
        halves=split_half(correct.mean(axis=0), counts, seed=seed, splits=splits),
        seeds=_reliability([(accuracy[a], accuracy[b]) for a, b in seeds], counts),
        reliability=Interval.of(reliability),
        tau=Interval.of(2 / np.pi * np.arcsin(root)),
        rho=Interval.of(6 / np.pi * np.arcsin(root / 2)),
    )


def true_variance(correct: Floats, counts: Floats, *, seed: int, splits: int = SPLITS) -> Floats:
    """Return the variance of the true accuracies in every resample, `[R]`; see `ceiling`.

    It is the mean covariance of two measurements by different seeds on disjoint halves of the
    images, so noise can make it negative.
    """
    seeds = list(itertools.permutations(range(len(correct)), 2))
    apart = [
        (correct[a][:, one].mean(axis=1), correct[b][:, other].mean(axis=1))
        for one, other in _halves(correct.shape[2], splits, seed)
        for a, b in seeds or [(0, 0)]
    ]
    return _mean(covariance, apart, counts)


def covariance(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Return the covariance of `x [n]` and `y [n]` in every resample, `[R]`."""
    import numpy as np

    if not rankable(x, y):
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
    return ratio(total, defined)


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
