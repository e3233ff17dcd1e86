"""`--track` from the command line: one run for a training, through a stop, and nothing unasked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trackers import install
from worlds import World

pytestmark = pytest.mark.e2e
SHAPE = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 1, "--num-heads", 2)


def test_a_stage_is_one_tracked_run_through_a_stop(
    world: World,
    tmp_path: Path,
    masktas: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = install(monkeypatch, "wandb")
    command = ("teacher", world.images, "--out", tmp_path / "photos", "--config", world.recipe)
    command = (*command, *SHAPE, "--epochs", 2, "--no-tensorboard")
    code, _, _ = masktas(*command, "--track", "wandb", "--max-time", "0.001s")
    assert code == 75
    code, _, said = masktas(*command, "--track", "wandb")
    assert code == 0, said
    stage = tmp_path / "photos/teacher"
    [run] = service.runs.values()
    assert run.name == "photos/teacher"
    assert run.config["settings/epochs"] == 2
    logged = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": step, **numbers} for step, numbers in run.lines] == logged
    manifest = json.loads((stage / "manifest.json").read_text())
    assert run.summary["cost/images"] == manifest["cost"]["images"]
    assert run.ends == [False, True]
    service.broken = True
    out = tmp_path / "second"
    second = [out if one == tmp_path / "photos" else one for one in command]
    code, _, said = masktas(*second, "--track", "wandb")
    assert code == 0
    assert said.count("--track wandb has failed") == 1
    same = (out / "teacher/metrics.jsonl").read_text()
    assert same == (stage / "metrics.jsonl").read_text()
    assert not (out / "teacher/tracking.json").exists()
