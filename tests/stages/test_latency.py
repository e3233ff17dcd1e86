"""Latency from Python: a model in a file, and the time of one network."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable

import pytest

import masktas
from masktas.artifacts import Run, Stage
from masktas.config import LatencySettings, SearchSettings
from masktas.console import Console
from masktas.errors import ArtifactError, ConfigError, SpaceError
from masktas.measure.budget import costed, latency_target
from masktas.measure.build import latency_for, model_path
from masktas.measure.clock import Rounds
from masktas.measure.fit import FittedCosts
from masktas.space import Costs
from masktas.space.latency import TICKS, LatencyModel


def measure(network):
    return float(network.architecture.depth + network.architecture.embed_dim)


def none_is_left(network):
    raise AssertionError("measured again")


none_is_left.__module__, none_is_left.__qualname__ = measure.__module__, measure.__qualname__


@pytest.fixture
def space_file(small_space, tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps(small_space.to_dict()))
    return path


def test_a_model_is_built_once(space_file, small_space, tmp_path):
    out = tmp_path / "phone.json"
    model = masktas.build_latency(space_file, out=out, measure=measure, held_out=3)
    assert model == LatencyModel.load(out)
    one = small_space.middle
    costs = FittedCosts(model.stem, model.attention, model.mlp)
    assert costs.milliseconds(one) == pytest.approx(measure_of(one))
    half_ticks = (2 * one.depth + 1) * 0.5 / TICKS
    assert model.predict(one) == pytest.approx(measure_of(one), abs=half_ticks)
    assert masktas.build_latency(small_space, out=out, measure=none_is_left) == model
    with pytest.raises(AssertionError, match="measured again"):
        masktas.build_latency(small_space, out=out, measure=none_is_left, overwrite=True)


def measure_of(architecture):
    return architecture.depth + architecture.embed_dim


def test_another_target_or_space_is_refused(small_space, tmp_path):
    out = tmp_path / "model.json"
    masktas.build_latency(small_space, out=out, measure=measure, held_out=0)
    with pytest.raises(ArtifactError, match=r"another target or space.*--overwrite"):
        masktas.build_latency(small_space, out=out, target=masktas.LatencyTarget(threads=1))
    for other in ({"head_dim": 8}, {"image_size": (8, 8)}):
        with pytest.raises(ArtifactError, match="another target or space"):
            masktas.build_latency(small_space.replace(**other), out=out, measure=measure)
    for other in ({"patch_size": (4,)}, {"num_heads": (1, 2, 5)}):
        with pytest.raises(masktas.MasktasError, match="has not measured"):
            masktas.build_latency(small_space.replace(**other), out=out, measure=measure)


def test_a_run_has_a_place_for_its_models(small_space, space_file, tmp_path):
    run = tmp_path / "run"
    (run / "supernet").mkdir(parents=True)
    space_file.rename(run / "supernet" / "space.json")
    model = masktas.build_latency(run, measure=measure, held_out=0)
    (kept,) = (run / "latency").glob("*.json")
    assert LatencyModel.load(kept) == model
    with pytest.raises(ConfigError, match="Give --out"):
        masktas.build_latency(small_space, measure=measure)
    with pytest.raises(ConfigError, match=r"ends in \.json"):
        masktas.build_latency(small_space, measure=measure, out=tmp_path / "model.txt")
    with pytest.raises(ArtifactError, match="Give a preset, a space file or a run folder"):
        masktas.build_latency(tmp_path, measure=measure)
    with pytest.raises(SpaceError, match="Unknown space 'tny'"):
        masktas.build_latency("tny", measure=measure)


def test_one_network_is_measured(small_space, tmp_path):
    assert masktas.measure_latency(small_space.middle, measure=measure).median_ms == 20
    (tmp_path / "architecture.json").write_text(json.dumps(small_space.middle.to_dict()))
    for where in (tmp_path, tmp_path / "architecture.json"):
        assert masktas.measure_latency(where, measure=measure).median_ms == 20
    target = masktas.LatencyTarget(threads=1)
    timing = masktas.measure_latency(tmp_path, target=target, rounds=Rounds(least=2, most=2))
    assert 0 < timing.low_ms <= timing.median_ms <= timing.high_ms < 1000
    assert timing.repeats >= 6
    with pytest.raises(ConfigError, match="either a target or a function"):
        masktas.measure_latency(tmp_path, target=target, measure=measure)
    with pytest.raises(SpaceError, match="cannot be read"):
        masktas.measure_latency(tmp_path / "none.json")


@pytest.mark.slow
def test_a_budget_in_int8_is_that_of_the_exported_file(small_space, tmp_path):
    target = masktas.LatencyTarget("onnxruntime", threads=1, precision="int8")
    once = Rounds(least=1, most=1)
    space = small_space.replace(
        embed_dim=(24,), depth=(1, 2), num_heads=(1, 3), mlp_ratio=(1.5, 2.75)
    )
    out = tmp_path / "model.json"
    model = masktas.build_latency(space, out=out, target=target, held_out=0, rounds=once)
    assert model.target["precision"] == "int8"
    with pytest.raises(ArtifactError, match="another target or space"):
        masktas.build_latency(
            space, out=out, target=masktas.LatencyTarget("onnxruntime", threads=1)
        )
    candidates = SearchSettings(min_use=0).check(space)
    amounts = sorted(model.predict(one) for one in candidates)
    limit = amounts[len(amounts) // 2] + 0.5 / TICKS
    settings = SearchSettings(latency=str(out), max_latency=f"{limit}ms", min_use=0)
    limited, found, files = costed(
        Run(tmp_path), candidates, settings,
        latency=False, measure=None, seed=0, console=Console(quiet=True), first=lambda do: do(),
    )  # fmt: skip
    assert found == target
    assert files == {"latency": out}
    drawn = [limited.sample(random.Random(seed)) for seed in range(20)]
    assert max(model.predict(one) for one in drawn) <= limit
    assert limited.size() == sum(one <= limit for one in amounts)


def test_of_several_processes_one_measures_and_all_read_its_model(small_space, tmp_path):
    measured = []

    def milliseconds(network) -> float:
        measured.append(network)
        return 1.0 + len(measured)  # two processes would measure different times

    settings = SearchSettings(max_latency="99s", min_use=0)
    candidates = settings.check(small_space)

    def of_process(first: Callable) -> Costs:
        limited, *_ = costed(
            Run(tmp_path), candidates, settings, latency=False, measure=milliseconds, seed=0,
            console=Console(quiet=True), first=first,
        )  # fmt: skip
        return limited.costs

    one = of_process(lambda do: do())
    count = len(measured)
    assert of_process(lambda do: None) == one  # a process that waits for the first
    assert len(measured) == count > 0


def test_two_commands_do_not_measure_into_one_file(small_space, tmp_path):
    target = latency_target(LatencySettings(), lambda network: 1.0)
    held = Stage("latency", tmp_path / "latency").lock()
    code = (
        "import sys; from pathlib import Path; from masktas.measure.build import latency_for;"
        "from masktas.space import SearchSpace; from masktas.measure.target import Target;"
        "latency_for(Path(sys.argv[1]), SearchSpace.preset('demo'),"
        " Target(engine='function', function=lambda n: 1.0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert "another masktas process is using it" in done.stderr
    os.close(held)
    assert latency_for(tmp_path, small_space, target).target["engine"] == "function"


def test_settings_name_the_precision(small_space, tmp_path):
    asked = {"latency_engine": "onnxruntime", "latency_threads": 1}
    paths = set()
    for precision in ("fp32", "int8"):
        target = latency_target(LatencySettings(**asked, latency_precision=precision), None)
        assert target == masktas.LatencyTarget("onnxruntime", threads=1, precision=precision)
        assert f", {precision}, batch of 1" in str(target)
        paths.add(model_path(tmp_path, small_space, target))
    assert len(paths) == 2
