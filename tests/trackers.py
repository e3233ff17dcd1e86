"""Modules in place of `wandb` and `mlflow` that keep what they are sent: the packages are large."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@dataclass
class Sent:
    """What one run in a tracker has got.

    Attributes:
        name, config: of the run.
        lines: step and numbers, in the order of their arrival.
        summary: numbers at the end.
        ends: whether each attempt ended by itself.
        settings: how the tracker was set up.
    """

    name: str
    config: Mapping[str, Any]
    lines: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)
    ends: list[bool] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)


class Service:
    """Runs by identifier, and what goes wrong.

    `broken` raises at every call; with `made_beside` another process makes an MLflow experiment
    just before this one does.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Sent] = {}
        self.projects: set[str] = set()
        self.broken = False
        self.made_beside = False

    def called(self) -> None:
        if self.broken:
            raise ConnectionError("no network,\nnot even <a bit>")


def install(monkeypatch: pytest.MonkeyPatch, tracker: str) -> Service:
    """Put the module of a tracker in place and return what stands behind it."""
    service = Service()
    modules = {"wandb": wandb_module, "mlflow": mlflow_modules}[tracker](service)
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return service


def wandb_module(service: Service) -> list[ModuleType]:
    """Return a module with `init` and `Settings`, as the tracking calls them."""

    def init(*, project, name, id, resume, config, dir, settings) -> Any:
        service.called()
        assert resume == "allow"
        service.projects.add(project)
        run = service.runs.setdefault(id, Sent(name, config, settings=settings))

        def log(numbers: dict[str, float], *, step: int) -> None:
            service.called()
            run.lines.append((step, numbers))

        def finish(*, exit_code: int) -> None:
            run.ends.append(exit_code == 0)

        return SimpleNamespace(log=log, finish=finish, summary=run.summary)

    module = ModuleType("wandb")
    module.init, module.Settings = init, dict  # type: ignore[attr-defined]
    return [module]


def mlflow_modules(service: Service) -> list[ModuleType]:
    """Return `mlflow` with a client, and `mlflow.entities`."""

    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> Any:
            service.called()
            return SimpleNamespace(experiment_id=name) if name in service.projects else None

        def create_experiment(self, name: str) -> str:
            taken = name in service.projects or service.made_beside
            service.projects.add(name)
            if taken:
                raise ValueError(f"experiment {name} exists")
            return name

        def create_run(self, experiment: str, *, run_name: str) -> Any:
            run = f"run-{len(service.runs)}"
            service.runs[run] = Sent(run_name, {})
            return SimpleNamespace(info=SimpleNamespace(run_id=run))

        def update_run(self, run: str, *, status: str) -> None:
            service.called()
            assert status == "RUNNING"
            assert run in service.runs

        def log_batch(self, run: str, *, metrics: Sequence[Any] = (), params: Sequence[Any] = ()):
            service.called()
            assert len(params) <= 100
            found = service.runs[run]
            found.config = dict(found.config) | {one.key: one.value for one in params}
            numbers = {one.key: one.value for one in metrics}
            if any(key.startswith("summary/") for key in numbers):
                found.summary |= {key.removeprefix("summary/"): numbers[key] for key in numbers}
            elif numbers:
                found.lines.append((metrics[0].step, numbers))

        def set_terminated(self, run: str, status: str) -> None:
            service.runs[run].ends.append(status == "FINISHED")

    def metric(key: str, value: float, timestamp: int, step: int) -> Any:
        return SimpleNamespace(key=key, value=value, step=step)

    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient, module.entities = MlflowClient, entities  # type: ignore[attr-defined]
    entities.Metric = metric  # type: ignore[attr-defined]
    entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)  # type: ignore[attr-defined]
    return [module, entities]
