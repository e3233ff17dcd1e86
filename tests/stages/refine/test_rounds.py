"""Who stays after a round of refinement, and by how much the others are behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from masktas.errors import MasktasError
from masktas.space import SearchSpace, params
from masktas.stages.refine.members import Member
from masktas.stages.refine.rounds import (
    CAPACITY,
    best_of_round,
    num_staying,
    ranked,
    staying,
    training_losses,
)
from masktas.strategies import Evaluated, Score

UNIFORMS = list(SearchSpace.preset("demo").uniforms())


def member(name: str, *baselines: str, competes: bool = True) -> Member:
    one = UNIFORMS[len(name)]
    return Member(name, Evaluated(one, Score(0.0), {}), baselines, competes)


MEMBERS = [
    member("a"), member("b"), member("uniform", "uniform"), member("c"),
    member("random-1", "random-1", competes=False),
]  # fmt: skip
# the feature loss of three images, the pixel loss of each, and the training loss
LOSSES = {
    "a": ([0.3, 0.4, 0.5], 0.9, 1.3),
    "b": ([0.2, 0.3, 0.4], 0.8, 1.2),
    "uniform": ([0.2, 0.4, 0.9], 0.7, 1.1),
    "c": ([0.1, 0.3, 0.2], 1.5, 1.4),
    "random-1": ([0.0, 0.0, 0.0], 0.0, 0.0),
}
HELD_OUT = {
    name: {"feature_loss": np.array(feature), "pixel_loss": np.full(3, pixel)}
    for name, (feature, pixel, _) in LOSSES.items()
}
TRAINING = {name: training for name, (_, _, training) in LOSSES.items()}


COMPETING = [one.name for one in MEMBERS if one.competes]


def test_ranks_of_three_losses_are_added_up_and_random_networks_are_out_of_the_race():
    entries = ranked(MEMBERS, COMPETING, HELD_OUT, TRAINING)
    scores = {one["name"]: one["score"] for one in entries}
    assert scores == {
        "b": 2 + 2 + 2,
        "uniform": 4 + 1 + 1,
        "c": 1 + 4 + 4,
        "a": 9,
        "random-1": None,
    }
    # the ties are decided by the feature loss
    assert [one["name"] for one in entries] == ["b", "uniform", "c", "a", "random-1"]
    assert entries[0]["feature_loss"] == pytest.approx(0.3)
    assert entries[1]["training_loss"] == 1.1


def test_of_nearly_equal_losses_the_one_with_more_parameters_counts():
    small, large = sorted(UNIFORMS, key=params)[:: len(UNIFORMS) - 1]
    ratio = (params(large) / params(small)) ** CAPACITY
    assert 1.01 < ratio < 1.2
    members = [Member(name, Evaluated(one, Score(0.0), {}), (), True)
               for name, one in (("small", small), ("large", large))]  # fmt: skip
    for factor, first in ((0.99 * ratio, "large"), (1.01 * ratio, "small")):
        losses = {"small": 0.5, "large": 0.5 * factor}
        held_out = {name: {"feature_loss": np.full(3, one)} for name, one in losses.items()}
        entries = ranked(members, ["small", "large"], held_out, losses)
        assert entries[0]["name"] == first
        assert entries[0]["feature_loss"] == pytest.approx(losses[first])  # as it was measured


def test_without_pixels_two_ranks_count():
    held_out = {name: {"feature_loss": one["feature_loss"]} for name, one in HELD_OUT.items()}
    entries = ranked(MEMBERS, COMPETING, held_out, TRAINING)
    assert {one["name"]: one["score"] for one in entries}["uniform"] == 4 + 1
    assert "pixel_loss" not in entries[0]


def test_differences_are_paired_over_images():
    entries = {one["name"]: one for one in ranked(MEMBERS, COMPETING, HELD_OUT, TRAINING)}
    behind = entries["uniform"]["behind"]["feature_loss"]
    apart = np.array([0.0, 0.1, 0.5])
    assert behind["difference"] == pytest.approx(apart.mean())
    assert behind["error"] == pytest.approx(np.sqrt(apart.var(ddof=1) / 3))
    assert entries["b"]["behind"]["pixel_loss"] == {"difference": 0.0, "error": 0.0}
    one_image = {name: {kind: of[:1] for kind, of in one.items()} for name, one in HELD_OUT.items()}
    assert (
        ranked(MEMBERS, COMPETING, one_image, TRAINING)[1]["behind"]["feature_loss"]["error"]
        is None
    )


def test_half_stays_and_kept_baselines_beside_it():
    assert [num_staying(16, number) for number in (1, 2, 3, 4)] == [8, 4, 2, 1]
    assert [num_staying(19, number) for number in (1, 2, 3, 4, 5)] == [9, 4, 2, 1, 1]
    entries = ranked(MEMBERS, COMPETING, HELD_OUT, TRAINING)
    assert best_of_round(entries, 9) == ["b", "uniform", "c", "a"]
    assert staying(best_of_round(entries, 1), MEMBERS, keep_baselines=False) == ["b"]
    assert staying(["b", "uniform"], MEMBERS, keep_baselines=False) == ["b", "uniform"]
    assert staying(["b"], MEMBERS, keep_baselines=True) == ["b", "uniform", "random-1"]


def test_who_wins_does_not_depend_on_baselines_that_are_trained_on():
    """A baseline that lost its place is the best of the next round, and still no winner."""
    with_it = ranked(MEMBERS, ["b", "c"], HELD_OUT, TRAINING)
    without = ranked([one for one in MEMBERS if one.name in "bc"], ["b", "c"], HELD_OUT, TRAINING)
    assert with_it[:2] == without
    assert [one["score"] for one in with_it[2:]] == [None] * 3
    assert best_of_round(with_it, 9) == ["b", "c"]


def test_training_losses_are_means_over_steps(tmp_path: Path):
    lines = [(3, 0.5), (6, 0.4), (7, 0.2)]  # each is the mean over the steps since the last
    text = "".join(json.dumps({"step": step, "a/loss": loss, "loss": 9}) + "\n"
                   for step, loss in lines)  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text(text)
    found = training_losses(tmp_path, [member("a")], "loss")
    assert found == {"a": pytest.approx((3 * 0.5 + 3 * 0.4 + 0.2) / 7)}
    # a step that was skipped
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 8, "skipped_steps": 1}) + "\n")
    found = training_losses(tmp_path, [member("a")], "loss")
    assert found == {"a": pytest.approx((3 * 0.5 + 3 * 0.4 + 0.2) / 7)}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 2, "skipped_steps": 2}) + "\n")
    with pytest.raises(MasktasError, match="no step has finite losses"):
        training_losses(tmp_path, [member("a")], "loss")
