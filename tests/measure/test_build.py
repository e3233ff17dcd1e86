"""Models from times that are known: what is put in comes out, and disturbances are reported."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from masktas.errors import ArtifactError, BudgetError, ConfigError
from masktas.measure import build
from masktas.measure.build import (
    build_model,
    fixed_fields,
    latency_for,
    model_path,
    save_model,
    turn_log_path,
)
from masktas.measure.clock import Rounds
from masktas.measure.fit import FittedCosts, errors_of, fit, fitted_networks, held_out_networks
from masktas.measure.target import Target
from masktas.measure.turns import measure_in_turns
from masktas.space import SearchSpace
from masktas.space.latency import TICKS, LatencyModel


class Bench:
    """A function that measures: a known cost of every block, and noise on it.

    Args:
        noise: by which share at most a time is off.
        most: calls; the next one is interrupted.
    """

    def __init__(self, *, noise=0.0, most=None):
        self.measured, self.noise, self.most = [], noise, most
        self._rng = random.Random(0)

    def __call__(self, network):
        if len(self.measured) == self.most:
            raise KeyboardInterrupt
        self.measured.append(network.architecture)
        return true_cost(network.architecture) * (1 + self._rng.uniform(-1, 1) * self.noise)


def true_cost(one):
    stem = 0.2 + one.embed_dim / 100 + 0.1 / one.patch_size
    attention = sum(0.05 * one.embed_dim / 12 + 0.11 * heads**1.3 for heads in one.num_heads)
    mlp = sum(0.03 + 0.004 * hidden for hidden in one.mlp_dim)
    return stem + (attention + mlp) * (0.5 + 1 / one.patch_size)


def target_of(bench):
    return Target("function", function=bench)


def spaces():
    common = {"head_dim": 4, "image_size": (8, 8), "patch_size": 4}
    return [
        SearchSpace("one-depth", (12, 18), (2,), (1, 2, 3), (1.5, 2, 4), **common),
        SearchSpace("one-of-all", (12,), (2, 5), (2,), (2,), **common),
        SearchSpace("alike", (12,), (1, 2), (1, 2), (2, 2.01, 3), **common),  # int(12 * 2.01) is 24
        SearchSpace(
            "two", (12, 18), (1, 4), (1, 2, 3), (1.5, 2), **common | {"patch_size": (1, 2)}
        ),
        SearchSpace("one-each", (12,), (2,), (2,), (2,), **common | {"patch_size": (1, 2)}),
    ]


@pytest.mark.parametrize("which", range(6))
def test_additive_costs_are_given_back(small_space, which):
    space = [small_space, *spaces()][which]
    model = build_model(space, target_of(Bench()), held_out=10)
    model.require(space)
    costs = FittedCosts(model.stem, model.attention, model.mlp)
    for one in [*space.uniforms(), *(space.sample(random.Random(i)) for i in range(50))]:
        assert costs.milliseconds(one) == pytest.approx(true_cost(one), rel=1e-9)
        half_ticks = (2 * one.depth + 1) * 0.5 / TICKS
        assert model.predict(one) == pytest.approx(true_cost(one), abs=half_ticks)
    for patch, width in itertools.product(space.patch_size, space.embed_dim):
        assert model.stem[patch, width] == pytest.approx(0.2 + width / 100 + 0.1 / patch)
    assert min([*model.attention.values(), *model.mlp.values()]) >= 0
    tried = model.held_out
    assert tried["networks"] == len(tried["pairs"]) <= 10
    assert tried["max_percent"] is None or tried["max_percent"] < 1e-6
    assert tried["noise_percent"] is None


def test_what_blocks_have_in_common_is_divided_as_products_are(small_space):
    model = build_model(small_space, target_of(Bench()), held_out=0)
    other = fit(small_space, {one: 10 + 3 * one.depth for one in fitted_networks(small_space)})
    tokens = small_space.largest.num_patches + 1
    (patch,) = small_space.patch_size
    for width in small_space.embed_dim:
        attention = sum(other.attention[patch, width, heads] for heads in small_space.num_heads)
        mlp = sum(ms for (_, d, _), ms in other.mlp.items() if d == width)
        macs_of_heads = sum(
            4 * tokens * 4 * heads * width + 2 * tokens**2 * 4 * heads
            for heads in small_space.num_heads
        )
        macs_of_mlps = sum(
            2 * tokens * width * int(width * ratio) for ratio in small_space.mlp_ratio
        )
        assert attention / mlp == pytest.approx(macs_of_heads / macs_of_mlps)
    assert model.held_out["networks"] == 0
    assert model.held_out["mean_percent"] is None


def test_noise_shows_in_the_held_out_error(small_space):
    errors = [
        build_model(small_space, target_of(Bench(noise=noise)), held_out=20).held_out
        for noise in (0, 0.02, 0.3)
    ]
    means = [one["mean_percent"] for one in errors]
    assert means[0] < 1e-6 < 0.3 < means[1] < 3 < 6 < means[2]
    assert [one["kendall_tau"] for one in errors] == sorted(
        (one["kendall_tau"] for one in errors), reverse=True
    )
    assert errors[0]["kendall_tau"] == pytest.approx(1)


def test_the_fit_has_the_least_relative_errors(small_space):
    rng = random.Random(0)
    times = {
        one: true_cost(one) * (1 + rng.uniform(-0.2, 0.2)) for one in fitted_networks(small_space)
    }

    def error(costs):
        return sum((costs.milliseconds(one) / ms - 1) ** 2 for one, ms in times.items())

    found = fit(small_space, times)
    for table in (found.stem, found.attention, found.mlp):
        for key, ms in table.items():
            for factor in (0.99, 1.01):
                least = error(found)
                table[key] = ms * factor
                assert error(found) >= least - 1e-12
                table[key] = ms


def test_costs_that_are_no_sum_show_too(small_space):
    def measure(network):
        return max(network.architecture.mlp_dim)  # of the widest block alone

    model = build_model(small_space, target_of(measure), held_out=20)
    assert model.held_out["mean_percent"] > 5


def test_held_out_networks_are_others(small_space):
    fitted = fitted_networks(small_space)
    assert len(set(fitted)) == len(fitted) == 3 * 2 * 5
    drawn = held_out_networks(small_space, 20, 7)
    assert len(set(drawn)) == 20
    assert not set(drawn) & set(fitted)
    assert drawn == held_out_networks(small_space, 20, 7) != held_out_networks(small_space, 20, 8)


def test_every_patch_size_is_measured_with_few_networks_of_the_smallest_depth():
    space = spaces()[3]
    fitted = fitted_networks(space)
    assert len(set(fitted)) == len(fitted) == 2 * 2 * (4 + 1)
    one_patch = len(fitted_networks(space.replace(patch_size=(2,))))
    assert one_patch == 2 * 2 * 4
    for patch in space.patch_size:
        depths = [one.depth for one in fitted if one.patch_size == patch]
        assert (depths.count(1), depths.count(4)) == (2, 8)
    assert {one.patch_size for one in held_out_networks(space, 20, 0)} == {1, 2}


def test_a_space_may_hold_none_that_could_be_held_out():
    tiny = spaces()[1]
    assert tiny.size() == len(fitted_networks(tiny)) == 2
    assert build_model(tiny, target_of(Bench()), held_out=5).held_out["networks"] == 0


@pytest.mark.parametrize("held_out", [-1, 2.5, True, None])
def test_a_number_to_hold_out_is_a_whole_one(small_space, held_out):
    with pytest.raises(ConfigError, match="held_out is"):
        build_model(small_space, target_of(Bench()), held_out=held_out)


def test_errors_of_few_pairs_say_what_can_be_said():
    assert errors_of([(2.0, 1.0)]) == {
        "mean_percent": 100,
        "max_percent": 100,
        "bias_percent": 100,
        "kendall_tau": None,
    }
    assert errors_of([(1.0, 2.0), (1.0, 3.0)])["kendall_tau"] is None
    assert errors_of([(1.0, 2.0), (2.0, 1.0)])["kendall_tau"] == -1


def test_a_killed_build_goes_on_and_measures_nothing_twice(small_space, tmp_path):
    log = tmp_path / "model.turns.jsonl"
    rounds = Rounds(least=3, most=3)
    whole = Bench()
    expected = build_model(small_space, target_of(whole), held_out=4, rounds=rounds)
    measured, stops = [], (1, 7, 50, None)
    for most in stops:
        bench = Bench(most=most)
        try:
            model = build_model(small_space, target_of(bench), held_out=4, rounds=rounds, log=log)
        except KeyboardInterrupt:
            assert most is not None
        measured += bench.measured
    assert measured == whole.measured
    assert model == expected
    again = Bench(most=0)
    assert build_model(small_space, target_of(again), held_out=4, rounds=rounds, log=log) == model


def test_a_torn_line_is_measured_again(small_space, tmp_path):
    log = tmp_path / "turns.jsonl"
    measure_in_turns([small_space.smallest, small_space.largest], target_of(Bench()), log=log)
    text = log.read_text()
    log.write_text(text[:-5])
    bench = Bench()
    timings = measure_in_turns(
        [small_space.smallest, small_space.largest], target_of(bench), log=log
    )
    assert len(bench.measured) == 1
    assert log.read_text() == text
    assert [one.median_ms for one in timings] == [
        true_cost(small_space.smallest),
        true_cost(small_space.largest),
    ]


def test_a_log_of_another_target_is_refused(small_space, tmp_path):
    log = tmp_path / "turns.jsonl"
    measure_in_turns([small_space.smallest], target_of(Bench()), log=log)
    with pytest.raises(ArtifactError, match="started on another target"):
        measure_in_turns([small_space.smallest], Target(threads=1), log=log)


@pytest.mark.parametrize(
    "line",
    [
        '{"round": 0}',
        '{"round": 0, "network": "a", "ms": []}',
        '{"round": 0, "network": "a", "ms": [0.0]}',
        '{"ms": ["x"]}',
        "[1]",
        "x",
    ],
)
def test_a_damaged_log_is_refused(small_space, tmp_path, line):
    log = tmp_path / "turns.jsonl"
    measure_in_turns([small_space.smallest], target_of(Bench()), log=log)
    log.write_text(log.read_text() + line + "\n")
    with pytest.raises(ArtifactError, match="damaged"):
        measure_in_turns([small_space.smallest], target_of(Bench()), log=log)


def test_a_machine_that_is_not_quiet_is_told_of(small_space, monkeypatch):
    said = []
    console = build.Console(quiet=True)
    monkeypatch.setattr(console, "warn", said.append)
    for noise in (0, 0.5):
        bench = Bench(noise=noise)
        build_model(
            small_space,
            target_of(bench),
            held_out=2,
            rounds=Rounds(least=4, most=4),
            console=console,
        )
    assert len(said) == 1
    assert "This machine is not quiet" in said[0]


def test_a_run_keeps_its_models(small_space, tmp_path):
    bench = Bench()
    model = latency_for(tmp_path, small_space, target_of(bench))
    path = model_path(tmp_path, small_space, target_of(bench))
    assert LatencyModel.load(path) == model
    assert len(turn_log_path(path).read_text().splitlines()) == 1 + len(bench.measured)
    assert latency_for(tmp_path, small_space, target_of(Bench(most=0))) == model
    wider = small_space.replace(num_heads=(1, 2, 3, 4))
    assert latency_for(tmp_path, wider, target_of(Bench())) != model
    assert len(list((tmp_path / "latency").glob("*.json"))) == 2
    path.write_text("{")
    with pytest.raises(BudgetError, match="not JSON"):
        latency_for(tmp_path, small_space, target_of(bench))


def test_a_model_is_read_as_it_was_written(small_space, tmp_path):
    model = build_model(small_space, target_of(Bench(noise=0.1)), held_out=5)
    path = tmp_path / "model.json"
    assert save_model(path, model) == model == LatencyModel.load(path)
    assert json.loads(path.read_text())["fixed"] == fixed_fields(small_space)
    with pytest.raises(BudgetError, match="head_dim 4, but head_dim is 8 in space"):
        model.require(small_space.replace(head_dim=8))
