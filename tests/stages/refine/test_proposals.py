"""Which networks join a refinement after its first round."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from masktas.config import RefineSettings, Round, SupernetSettings
from masktas.space import Architecture, SearchSpace, params
from masktas.space.vary import distance
from masktas.stages.refine.members import Member
from masktas.stages.refine.proposals import PENALTY, LossModel, Proposals, features
from masktas.strategies import Evaluated, Score

SPACE = SearchSpace.preset("wide-micro")


def drawn(count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    return list(dict.fromkeys(SPACE.sample(rng) for _ in range(count)))


def members(networks: list[Architecture]) -> list[Member]:
    return [Member(f"candidate-{n}", rated(one)) for n, one in enumerate(networks, start=1)]


def rated(one: Architecture) -> Evaluated:
    return Evaluated(one, Score(0.0), {})


def loss(one: Architecture) -> float:
    """A law that the model can learn: wide and shallow networks learn more."""
    return 0.1 * one.embed_dim**-0.3 * one.depth**0.2


def entries(cohort: list[Member]) -> list[dict[str, object]]:
    of = {one.name: loss(one.architecture) for one in cohort}
    return [{"name": name, "feature_loss": 2 * value, "training_loss": value / 2}
            for name, value in of.items()]  # fmt: skip


def test_features_are_logarithms_of_the_shape() -> None:
    one = SPACE.build(96, (1, 3), (2, 6), patch_size=8)
    assert [math.exp(value) for value in features(one)] == pytest.approx(
        [8, 96, 2, 2.0, 4.0, params(one)]
    )


@pytest.mark.parametrize("count", [5, 12, 40])
def test_the_model_is_a_ridge_regression_and_explained_leaves_each_out_in_turn(count: int) -> None:
    networks, rng = drawn(count), np.random.default_rng(0)
    losses = [loss(one) * math.exp(rng.normal(scale=0.1)) for one in networks]
    found = LossModel.fit(networks, losses)
    table = np.array([features(one) for one in networks])
    x = (table - table.mean(0)) / table.std(0)
    y = np.log(losses)

    def literal(chosen: list[int]) -> np.ndarray:
        rows = np.column_stack([x[chosen], np.ones(len(chosen))])
        penalty = PENALTY * np.diag([1.0] * x.shape[1] + [0.0])  # none on the mean
        return np.linalg.solve(rows.T @ rows + penalty, rows.T @ y[chosen])

    everything = literal(list(range(count)))
    for one, row in zip(networks, x, strict=True):
        assert found.predict(one) == pytest.approx(math.exp(np.append(row, 1) @ everything))
    apart = [
        y[left] - np.append(x[left], 1) @ literal([n for n in range(count) if n != left])
        for left in range(count)
    ]
    explained = 1 - np.square(apart).sum() / np.square(y - y.mean()).sum()
    assert found.explained == pytest.approx(explained)


def test_equal_losses_or_equal_shapes_are_no_error() -> None:
    networks = drawn(6)
    assert LossModel.fit(networks, [0.5] * 6).explained is None
    assert LossModel.fit(networks, [0.5] * 6).predict(networks[0]) == pytest.approx(0.5)
    same = LossModel.fit([networks[0]] * 2, [0.25, 1.0])
    assert same.predict(networks[3]) == pytest.approx(0.5)


@pytest.mark.parametrize("diversity", [0, 3])
def test_the_lowest_expected_losses_join_and_differ(diversity: int) -> None:
    cohort, pool = members(drawn(12)), [rated(one) for one in drawn(300, seed=1)]
    found = Proposals.of_round(
        entries(cohort), ["feature_loss", "training_loss"], cohort, pool,
        count=8, diversity=diversity,
    )  # fmt: skip
    assert [one.name for one in found.members] == [f"proposed-{n}" for n in range(1, 9)]
    assert all(one.competes and not one.baselines for one in found.members)
    assert list(found.expected.values()) == sorted(found.expected.values())
    assert found.explained is not None
    assert found.explained > 0.8
    chosen = [one.architecture for one in found.members]
    for one, other in itertools.combinations([*chosen, *(m.architecture for m in cohort)], 2):
        if one in chosen or other in chosen:
            assert distance(one, other) >= max(1, diversity)
    # by the true law too they are among the best of those to choose from
    best = sorted(loss(one.architecture) for one in pool)
    assert max(loss(one) for one in chosen) < best[len(best) // 5]
    left_out = [one.architecture for one in pool if one.architecture not in chosen]
    model = LossModel.fit(
        [one.architecture for one in cohort], [loss(one.architecture) for one in cohort]
    )
    if not diversity:
        assert min(map(model.predict, left_out)) >= max(map(model.predict, chosen))


def test_networks_of_the_cohort_are_not_proposed_again() -> None:
    cohort = members(drawn(6))
    found = Proposals.of_round(
        entries(cohort), ["feature_loss"], cohort, [one.rated for one in cohort],
        count=4, diversity=0,
    )  # fmt: skip
    assert found.members == ()


def test_the_proposed_are_trained_after_the_first_round_by_its_images() -> None:
    settings = RefineSettings(rounds="1,2", cohort=6).of_supernet(SupernetSettings())
    assert settings.proposals == 6
    assert settings.schedule == (Round(1), Round(1, joins=True), Round(2))
    assert [one.name for one in settings.schedule] == ["round-1", "round-1-proposed", "round-2"]
    none = RefineSettings(rounds="1,2", proposals=0).of_supernet(SupernetSettings())
    assert none.schedule == (Round(1), Round(2))
