"""Experiment trackers: what a run gets, once, whatever happens to training or tracker."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from masktas.errors import ConfigError
from masktas.train.tracking import PACKAGES, Tracking, require_tracker
from trackers import Service, install

LINES = [{"step": step, "epoch": step / 2, "loss": 1 / step} for step in (2, 4, 6, 8)]
SENT = [(line["step"], {"epoch": line["epoch"], "loss": line["loss"]}) for line in LINES]
CONFIG = {"settings": {"lr": 0.1, "space": None}, "seed": 3}
MANIFEST = {
    "settings": {"lr": 0.1},
    "cost": {"seconds": 2.5, "name": "cpu"},
    "test": {"top1": 0.75},
    "best": True,
    "rows": [1, 2],
}


@pytest.fixture(params=sorted(PACKAGES))
def tracker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(tracker: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return install(monkeypatch, tracker)


def tracking(tracker: str, folder: Path, warnings: list[str] | None = None) -> Tracking:
    warn = (lambda text: pytest.fail(text)) if warnings is None else warnings.append
    return Tracking(tracker, folder, name="photos/teacher", config=CONFIG, warn=warn)


def test_a_run_gets_settings_lines_and_results(
    tracker: str, service: Service, tmp_path: Path
) -> None:
    tracked = tracking(tracker, tmp_path)
    tracked.start([])
    for line in LINES:
        tracked.log(line)
    tracked.finish(MANIFEST, done=True)
    tracked.finish(MANIFEST, done=True)  # it has ended
    [run] = service.runs.values()
    assert service.projects == {"masktas"}
    assert run.name == "photos/teacher"
    assert {key: str(value) for key, value in run.config.items()} == {
        "settings/lr": "0.1", "settings/space": "None", "seed": "3",
    }  # fmt: skip
    assert run.lines == SENT
    assert run.summary == {"cost/seconds": 2.5, "test/top1": 0.75}
    assert run.ends == [True]


def test_a_resumed_training_continues_its_run_and_repeats_nothing(
    tracker: str, service: Service, tmp_path: Path
) -> None:
    """Lines after the checkpoint are logged again, and one was logged without the tracker."""
    first = tracking(tracker, tmp_path)
    first.start([])
    for line in LINES[:2]:
        first.log(line)
    first.finish(None, done=False)
    second = tracking(tracker, tmp_path)
    second.start(LINES[:1])
    second.log(LINES[1])
    second.finish(None, done=False)
    third = tracking(tracker, tmp_path)
    third.start(LINES[:3])
    third.start(LINES[:2])  # after going back from a bad step
    for line in LINES[2:]:
        third.log(line)
    third.finish(MANIFEST, done=True)
    [run] = service.runs.values()
    assert run.lines == SENT
    assert run.ends == [False, False, True]
    tracking(tracker, tmp_path / "another").start(LINES[:1])
    assert len(service.runs) == 2


@pytest.mark.parametrize("good_lines", [None, 0, 2])
def test_a_failing_tracker_warns_once_and_gets_the_rest_later(
    good_lines: int | None, tracker: str, service: Service, tmp_path: Path
) -> None:
    warnings: list[str] = []
    tracked = tracking(tracker, tmp_path, warnings)
    service.broken = good_lines is None
    tracked.start([])
    for number, line in enumerate(LINES):
        service.broken = service.broken or number == good_lines
        tracked.log(line)
    tracked.start(LINES)
    tracked.finish(MANIFEST, done=True)
    [said] = warnings
    assert f"--track {tracker} has failed (ConnectionError: no network, not even <a bit>)" in said
    service.broken = False
    resumed = tracking(tracker, tmp_path)
    resumed.start(LINES)
    resumed.finish(MANIFEST, done=True)
    [run] = service.runs.values()
    assert run.lines == SENT
    assert run.summary["test/top1"] == 0.75


def test_a_damaged_record_is_a_warning(tracker: str, service: Service, tmp_path: Path) -> None:
    (tmp_path / "tracking.json").write_text("{")
    warnings: list[str] = []
    tracking(tracker, tmp_path, warnings).start(LINES)
    assert len(warnings) == 1
    assert "tracking.json" in warnings[0]
    assert not service.runs


def test_users_choose_project_and_may_change_the_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = [install(monkeypatch, tracker) for tracker in ("wandb", "mlflow")]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    for tracker in ("wandb", "mlflow"):
        tracking(tracker, tmp_path).start(LINES)
    for service in services:
        assert service.projects == {"mine"}
        assert [run.lines for run in service.runs.values()] == [SENT]


def test_two_trainings_that_make_the_same_experiment_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = install(monkeypatch, "mlflow")
    service.made_beside = True
    tracking("mlflow", tmp_path).start(LINES)
    assert [run.lines for run in service.runs.values()] == [SENT]


def test_a_missing_package_is_refused_by_name(
    tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    require_tracker("none")
    with pytest.raises(ConfigError, match=rf"--track {tracker} needs .*masktas\[{tracker}\]"):
        require_tracker(tracker)


def test_weights_and_biases_gets_nothing_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = install(monkeypatch, "wandb")
    tracking("wandb", tmp_path).start([])
    [run] = service.runs.values()
    assert run.settings["console"] == "off"
    off = ("disable_code", "disable_git", "x_disable_machine_info", "x_disable_meta")
    assert all(run.settings[name] for name in (*off, "x_disable_stats"))
    assert run.settings["x_save_requirements"] is False


# --- the packages themselves, where they are installed


def attempts(tracker: str, folder: Path) -> None:
    for kept, done in (([], False), (LINES[:1], True)):
        tracked = tracking(tracker, folder)
        tracked.start(kept)
        for line in LINES[: 4 if done else 2]:
            tracked.log(line)
        tracked.finish(MANIFEST if done else None, done=done)


def test_mlflow_keeps_a_run_in_a_local_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    attempts("mlflow", tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows: list[Any] = database.execute("select name, status from runs").fetchall()
        assert rows == [("photos/teacher", "FINISHED")]
        query = "select step, value from metrics where key = 'loss' order by step"
        assert database.execute(query).fetchall() == [
            (line["step"], line["loss"]) for line in LINES
        ]


def test_weights_and_biases_keeps_a_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    attempts("wandb", tmp_path)
    run = json.loads((tmp_path / "tracking.json").read_text())["run"]
    written = list((tmp_path / "wandb").glob(f"offline-run-*-{run}/*.wandb"))
    assert len(written) == 2  # one for each attempt; `wandb sync` joins them
    content = b"".join(path.read_bytes() for path in written)
    assert all(str(line["loss"]).encode() in content for line in LINES)
