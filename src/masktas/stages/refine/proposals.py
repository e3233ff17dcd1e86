"""Networks that join a refinement after its first round: those that its losses promise most of.

Shared weights rank networks badly that they train badly; refined losses rank them well, but only
those that were refined (docs/results/search-pays.md). So a linear model of a few numbers of a shape
carries over what the first round has shown to all networks that the search rated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.space import Architecture, params
from masktas.space.vary import distance
from masktas.stages.refine.members import Member
from masktas.strategies import Evaluated

PENALTY = 3.0  # of the ridge: as much as three networks, each one standard deviation away
Numbers = NDArray[np.float64]


def features(one: Architecture) -> list[float]:
    """Return the logarithms of patch size, width, depth, mean heads, mean MLP ratio, parameters."""
    return [
        math.log(value)
        for value in (
            one.patch_size,
            one.embed_dim,
            one.depth,
            math.fsum(one.num_heads) / one.depth,
            math.fsum(one.mlp_ratio) / one.depth,
            params(one),
        )
    ]


@dataclass(frozen=True, slots=True)
class LossModel:
    """A ridge regression of the logarithm of a network's loss on its shape.

    Attributes:
        center, scale: means and standard deviations of the features.
        slopes: one for each feature in standard deviations.
        mean: of the logarithms.
        explained: share of their variance that is predicted, each network by a model of the others
            (leave-one-out R²); None if all losses are equal.
    """

    center: Numbers
    scale: Numbers
    slopes: Numbers
    mean: float
    explained: float | None

    @classmethod
    def fit(cls, networks: Sequence[Architecture], losses: Sequence[float]) -> LossModel:
        """Fit the model.

        Args:
            networks: trained for the same images, at least two.
            losses: of each; positive.
        """
        table, target = np.array([features(one) for one in networks]), np.log(losses)
        center, spread = table.mean(0), table.std(0)
        scale = np.where(spread > 0, spread, 1.0)
        x, mean = (table - center) / scale, float(target.mean())
        inverse = np.linalg.inv(x.T @ x + PENALTY * np.eye(x.shape[1]))
        slopes = inverse @ x.T @ (target - mean)
        weight_of_itself = 1 / len(x) + np.einsum("ij,jk,ik->i", x, inverse, x)
        apart = (target - mean - x @ slopes) / (1 - weight_of_itself)
        variance = float(((target - mean) ** 2).sum())
        explained = 1 - float((apart**2).sum()) / variance if variance else None
        return cls(center, scale, slopes, mean, explained)

    def predict(self, one: Architecture) -> float:
        """Return the loss that is expected of a network."""
        x = (np.array(features(one)) - self.center) / self.scale
        return math.exp(self.mean + float(x @ self.slopes))


@dataclass(frozen=True, slots=True)
class Proposals:
    """What joins after the first round.

    Attributes:
        members: named `proposed-N`, the lowest expected loss first.
        expected: the loss of each by name.
        explained: see `LossModel`.
    """

    members: tuple[Member, ...]
    expected: dict[str, float]
    explained: float | None

    @classmethod
    def of_round(
        cls,
        entries: Sequence[Mapping[str, Any]],
        losses: Sequence[str],
        cohort: Sequence[Member],
        rated: Sequence[Evaluated],
        *,
        count: int,
        diversity: int,
    ) -> Proposals:
        """Choose the networks whose shapes promise the lowest losses.

        Args:
            entries: of the first round's members in the journal.
            losses: names of the losses in them; what is predicted is their geometric mean.
            cohort: the members.
            rated: the networks of the search, to choose from.
            count: largest number of proposals.
            diversity: smallest number of genes in which they differ from each other and from the
                cohort.
        """
        by_name = {one.name: one.architecture for one in cohort}
        model = LossModel.fit(
            [by_name[one["name"]] for one in entries],
            [math.prod(one[kind] for kind in losses) ** (1 / len(losses)) for one in entries],
        )
        expected = {one.architecture: model.predict(one.architecture) for one in rated}
        least, taken = max(1, diversity), list(by_name.values())
        members: list[Member] = []
        for one in sorted(rated, key=lambda one: expected[one.architecture]):
            if len(members) == count:
                break
            if all(distance(one.architecture, other) >= least for other in taken):
                members.append(Member(f"proposed-{len(members) + 1}", one))
                taken.append(one.architecture)
        by_member = {one.name: expected[one.architecture] for one in members}
        return cls(tuple(members), by_member, model.explained)
