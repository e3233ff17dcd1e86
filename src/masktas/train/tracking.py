"""Experiment trackers beside `metrics.jsonl`: Weights & Biases, MLflow. Nothing is sent unasked.

A tracked run gets the settings, the lines of `metrics.jsonl` and the numbers of the manifest.
`tracking.json` in the folder of the training keeps its identifier and the last step that it has
got: a resumed training continues the run, sends what is missing, and repeats no line.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from masktas.errors import require_extra
from masktas.files import read_json, write_json

TRACKING = "tracking.json"
PROJECT = "masktas"  # unless the tracker's own environment variable names another one
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}  # also the names of their extras
NOT_SUMMARISED = ("schema", "settings", "images", "earlier_images", "parents", "versions")


def require_tracker(name: str) -> None:
    """Import the package of a tracker; `none` needs none.

    Raises:
        ConfigError: if it is not installed.
    """
    if name in PACKAGES:
        _quiet()
        require_extra(PACKAGES[name], name, f"--track {name}")


class Backend(Protocol):
    """One run in a tracker; `run` is its identifier there."""

    run: str

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step."""

    def finish(self, summary: Mapping[str, float], *, done: bool) -> None:
        """Add the results and end the run; it can be continued unless it is `done`."""


class Tracking:
    """A training in a tracker. If the tracker fails, it warns once, and training continues.

    Args:
        tracker: `wandb` or `mlflow`.
        folder: of the training; gets `tracking.json`.
        name: of the tracked run.
        config: the settings, nested or flat.
        warn: called with one sentence if the tracker fails.
    """

    def __init__(
        self,
        tracker: str,
        folder: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self._tracker, self._folder, self._name, self._config = tracker, folder, name, config
        self._warn = warn
        self._record: dict[str, Any] = {}
        self._backend: Backend | None = None
        self._failed = False

    def start(self, lines: Sequence[Mapping[str, float]]) -> None:
        """Begin or continue the run, and send those logged lines that it has not got yet."""
        with self._spared():
            if self._backend is None and not self._failed:
                self._open()
        for line in lines:
            self.log(line)

    def log(self, line: Mapping[str, float]) -> None:
        """Send a line of `metrics.jsonl`, unless the run has it."""
        with self._spared():
            step = int(line["step"])
            if self._backend is None or step <= self._record["step"]:
                return
            # before it is sent: a line may get lost in a kill between the two, but never repeated
            write_json(self._folder / TRACKING, self._record | {"step": step})
            try:
                self._backend.log(step, {key: line[key] for key in line if key != "step"})
            except Exception:
                write_json(self._folder / TRACKING, self._record)  # a resumed training sends it
                raise
            self._record["step"] = step

    def finish(self, manifest: Mapping[str, Any] | None, *, done: bool) -> None:
        """End the run, with the numbers of the manifest if there is one.

        Args:
            manifest: of the finished stage.
            done: whether the training has ended by itself; an interrupted one is resumed.
        """
        with self._spared():
            backend, self._backend = self._backend, None
            if backend is not None:
                content = {k: v for k, v in (manifest or {}).items() if k not in NOT_SUMMARISED}
                numbers = {
                    name: value
                    for name, value in flat(content).items()
                    if isinstance(value, (int, float)) and not isinstance(value, bool)
                }
                backend.finish(numbers, done=done)

    def _open(self) -> None:
        path = self._folder / TRACKING
        before = read_json(path) if path.exists() else {}
        if before.get("tracker") != self._tracker:
            before = {}
        begin: type[WandbRun | MlflowRun] = WandbRun if self._tracker == "wandb" else MlflowRun
        opened = begin(before.get("run"), self._name, flat(self._config), self._folder)
        self._backend = opened
        self._record = {"tracker": self._tracker, "run": opened.run, "step": before.get("step", -1)}
        write_json(path, self._record)

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Continue without the tracker if it fails, whatever its library raises."""
        try:
            yield
        except Exception as error:
            self._failed, self._backend = True, None
            said = " ".join(str(error).split())[:200]
            self._warn(
                f"--track {self._tracker} has failed ({type(error).__name__}: {said}): training "
                "continues without it. What is missing is sent when the training is resumed."
            )


class WandbRun:
    """A run in Weights & Biases: no code, git state, console, machine data or error reports.

    Args:
        run: identifier of an earlier attempt's run, to continue it.
        name: of the run.
        config: flat settings.
        folder: gets W&B's own files.
    """

    def __init__(self, run: str | None, name: str, config: Mapping[str, Any], folder: Path) -> None:
        _quiet()
        wandb = require_extra("wandb", "wandb", "--track wandb")
        self.run = run or uuid.uuid4().hex
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=self.run,
            resume="allow",
            config=dict(config),
            dir=str(folder),
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                silent=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step."""
        self._run.log(dict(numbers), step=step)

    def finish(self, summary: Mapping[str, float], *, done: bool) -> None:
        """Add the results to the summary and wait until everything is sent, for a minute."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if done else 1)


class MlflowRun:
    """A run in MLflow, where `MLFLOW_TRACKING_URI` says, by default `mlflow.db` in this folder.

    Args:
        run: identifier of an earlier attempt's run, to continue it.
        name: of the run.
        config: flat settings, the parameters of a new run.
        folder: of the training; not used.
    """

    def __init__(self, run: str | None, name: str, config: Mapping[str, Any], folder: Path) -> None:
        _quiet()
        mlflow = require_extra("mlflow", "mlflow", "--track mlflow")
        self._entities = require_extra("mlflow.entities", "mlflow", "--track mlflow")
        self._client = mlflow.MlflowClient()
        if run is not None:
            self._client.update_run(run, status="RUNNING")
            self.run = run
            return
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        self.run = str(self._client.create_run(experiment, run_name=name).info.run_id)
        params = [self._entities.Param(key, str(value)[:500]) for key, value in config.items()]
        for first in range(0, len(params), 100):  # the most that a request may hold
            self._client.log_batch(self.run, params=params[first : first + 100])

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step."""
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(key, value, now, step) for key, value in numbers.items()]
        for first in range(0, len(metrics), 1000):
            self._client.log_batch(self.run, metrics=metrics[first : first + 1000])

    def finish(self, summary: Mapping[str, float], *, done: bool) -> None:
        """Add the results as metrics `summary/...` and end the run."""
        self.log(0, {f"summary/{name}": value for name, value in summary.items()})
        self._client.set_terminated(self.run, "FINISHED" if done else "KILLED")

    def _experiment(self, title: str) -> str:
        """Return the identifier of an experiment, which is made unless it is there."""
        if known := self._client.get_experiment_by_name(title):
            return str(known.experiment_id)
        try:
            return str(self._client.create_experiment(title))
        except Exception:
            # a training beside this one may have made it meanwhile
            if known := self._client.get_experiment_by_name(title):
                return str(known.experiment_id)
            raise


def flat(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with keys such as `settings/lr`; lists stay as they are."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}/")
        else:
            found[f"{above}{key}"] = value
    return found


def _quiet() -> None:
    """Set what the packages read from the environment, unless the user has: reports, patience."""
    for name, value in (
        ("WANDB_ERROR_REPORTING", "false"),
        ("WANDB_INIT_TIMEOUT", "30"),
        ("WANDB_FINISH_TIMEOUT", "60"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
    ):
        os.environ.setdefault(name, value)
