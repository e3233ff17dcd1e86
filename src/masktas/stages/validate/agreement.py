"""Agreement of ratings with accuracy, compared with that of size alone.

Shapes: n networks, R rows of counts (see `rank_correlation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masktas.stages.validate.rank_correlation import (
    Interval,
    kendall,
    partial_spearman,
    regret,
    spearman,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

TOP = (1, 3, 5)


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


@dataclass(frozen=True, slots=True)
class SupernetAgreement:
    """Agreement of the ratings of the same networks by two supernets.

    Attributes:
        between: Kendall's tau between the two.
        own, other, mean: Kendall's tau with accuracy of this supernet's rating, of the other's, and
            of their mean; undefined without labels.
    """

    between: Interval
    own: Interval
    other: Interval
    mean: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return all estimates as JSON types."""
        names = ("between", "own", "other", "mean")
        return {name: getattr(self, name).to_dict() for name in names}


def compare_supernets(
    own: Floats, other: Floats, accuracy: Floats | None, counts: Floats
) -> SupernetAgreement:
    """Compare a rating by one supernet with the same rating by another, `[n]` each.

    Their mean is that of standard scores: each is divided by its standard deviation first.

    Args:
        own: by this supernet.
        other: by the other.
        accuracy: of each network; None without labels.
        counts: see `resamples`.
    """
    import numpy as np

    mean = own / (own.std() or 1.0) + other / (other.std() or 1.0)
    truth = np.full(len(own), np.nan) if accuracy is None else accuracy
    pairs = ((own, other), (own, truth), (other, truth), (mean, truth))
    return SupernetAgreement(*(Interval.of(kendall(x, y, counts)) for x, y in pairs))
