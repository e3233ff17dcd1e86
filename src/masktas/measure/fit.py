"""Costs of blocks fitted to the times of whole networks.

Two uniform networks of different depths differ by a number of blocks measured in place, with the
caches, allocations and calls of the blocks around them, which a block alone would not show.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from masktas.errors import LatencyError, require_extra
from masktas.space import Architecture, SearchSpace, cost

MORE_BLOCKS = 2  # if a space has only one depth
TRIES = 50  # draws for each held-out network: a small space may have none


@dataclass(frozen=True, slots=True)
class FittedCosts:
    """Milliseconds by patch size and width, for a block also by heads or by MLP width."""

    stem: dict[tuple[int, int], float]
    attention: dict[tuple[int, int, int], float]
    mlp: dict[tuple[int, int, int], float]

    def milliseconds(self, one: Architecture) -> float:
        """Return the sum for an architecture, not rounded: for the error of the fit."""
        patch, width = one.patch_size, one.embed_dim
        return (
            self.stem[patch, width]
            + sum(self.attention[patch, width, heads] for heads in one.num_heads)
            + sum(self.mlp[patch, width, hidden] for hidden in one.mlp_dim)
        )


def fitted_networks(space: SearchSpace) -> list[Architecture]:
    """Return the networks to fit to: uniform ones of the smallest and the largest depth.

    For each patch size and width, each number of heads with the middle MLP ratio, and each ratio
    with the middle number of heads. If there are several patch sizes, only the middle block is
    measured at the smallest depth, which suffices to know the stem: the number of networks, and so
    the time, remains about that of one patch size.
    """
    low, high = space.depth[0], space.depth[-1]
    high = high if high > low else low + MORE_BLOCKS
    heads, ratio = space.middle.num_heads[0], space.middle.mlp_ratio[0]
    blocks = [(one, ratio) for one in space.num_heads]
    blocks += [(heads, one) for one in space.mlp_ratio if one != ratio]
    stems = [(heads, ratio)] if len(space.patch_size) > 1 else blocks
    return [
        space.uniform(width, depth, *block, patch_size=patch)
        for patch, width in itertools.product(space.patch_size, space.embed_dim)
        for block in blocks
        for depth in ((low, high) if block in stems else (high,))
    ]


def held_out_networks(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Draw `count` networks of the space, fewer if there are fewer, none of the fitted ones."""
    fitted = set(fitted_networks(space))
    rng, drawn = random.Random(seed), dict[Architecture, None]()
    for _ in range(TRIES * count):
        one = space.sample(rng)
        if one not in fitted:
            drawn[one] = None
        if len(drawn) == count:
            break
    return list(drawn)


def fit(space: SearchSpace, times: Mapping[Architecture, float]) -> FittedCosts:
    """Return the non-negative costs whose sums fit the times best, in least squares.

    Errors are relative, so that small and large networks count alike. The part that all blocks have
    in common could belong to attention or to the MLP: it is divided so that the means of the two
    over all choices are in the ratio of their multiply-accumulates. Sums do not depend on this.
    """
    costs = FittedCosts({}, {}, {})
    for key in itertools.product(space.patch_size, space.embed_dim):
        patch, width = key
        rows = [(one, ms) for one, ms in times.items() if (one.patch_size, one.embed_dim) == key]
        hidden = sorted({int(width * ratio) for ratio in space.mlp_ratio})
        counts = np.array([_counts(one, space.num_heads, hidden) for one, _ in rows], dtype=float)
        solved = _solve(counts, np.array([ms for _, ms in rows]))
        stem, attention, mlp = np.split(solved, [1, 1 + len(space.num_heads)])
        one = space.largest.replace(embed_dim=width, patch_size=patch)
        moved = _common(one, space, attention, mlp, hidden)
        costs.stem[key] = float(stem[0])
        pairs = zip(space.num_heads, attention + moved, strict=True)
        costs.attention.update({(*key, heads): float(ms) for heads, ms in pairs})
        costs.mlp.update(
            {(*key, size): float(ms) for size, ms in zip(hidden, mlp - moved, strict=True)}
        )
    return costs


def _counts(one: Architecture, heads: Sequence[int], hidden: Sequence[int]) -> list[int]:
    """Return how often the sum contains each cost: the stem once, then heads, then MLP widths."""
    return [1, *(one.num_heads.count(h) for h in heads), *(one.mlp_dim.count(m) for m in hidden)]


def scipy(part: str) -> ModuleType:
    """Import a part of SciPy; a ConfigError says how to install it."""
    return require_extra(f"scipy.{part}", "latency", "Fitting a latency model")


def _solve(counts: Any, times: Any) -> Any:
    """Minimise the relative errors over non-negative costs."""
    try:
        return scipy("optimize").nnls(counts / times[:, None], np.ones(len(times)))[0]
    except RuntimeError:  # did not converge
        raise LatencyError(
            "No costs of blocks explain the measured times: measure again when nothing else runs "
            "on the machine."
        ) from None


def _common(
    one: Architecture, space: SearchSpace, attention: Any, mlp: Any, hidden: Sequence[int]
) -> float:
    """Return what to move from the MLPs to attention, to match the ratio of their products."""
    tokens, width = one.num_patches + 1, one.embed_dim
    of_attention = np.mean(
        [cost.attention_macs(tokens, width, one.head_dim * heads) for heads in space.num_heads]
    )
    of_mlp = np.mean([cost.mlp_macs(tokens, width, size) for size in hidden])
    block = attention.mean() + mlp.mean()
    moved = block * of_attention / (of_attention + of_mlp) - attention.mean()
    return float(np.clip(moved, -attention.min(), mlp.min()))  # nothing falls below 0


def errors_of(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Compare (predicted, measured) milliseconds: errors in per cent and rank correlation.

    Returns:
        `mean_percent` and `max_percent` of absolute errors, `bias_percent` (above 0: predicted
        too slow), `kendall_tau`; None if there are too few pairs.
    """
    if not pairs:
        return dict.fromkeys(("mean_percent", "max_percent", "bias_percent", "kendall_tau"))
    predicted, measured = np.array(pairs).T
    errors = 100 * (predicted / measured - 1)
    alike = len(set(predicted)) == 1 or len(set(measured)) == 1
    tau = None if alike else float(scipy("stats").kendalltau(predicted, measured).statistic)
    return {
        "mean_percent": float(np.abs(errors).mean()),
        "max_percent": float(np.abs(errors).max()),
        "bias_percent": float(errors.mean()),
        "kendall_tau": None if tau is None or math.isnan(tau) else tau,
    }
