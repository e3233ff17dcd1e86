"""What networks cost, latency included: by a model of what was measured on the user's target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masktas.artifacts import Run
from masktas.config import CostSettings, LatencySettings
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.measure.build import latency_for, model_path
from masktas.measure.target import Measure, Target
from masktas.space import Budget, BudgetedSpace, Costs, LatencyModel, SearchSpace

MEASURED_AS = ("engine", "device", "threads", "batch", "precision")


def costed(
    run: Run,
    space: SearchSpace,
    settings: CostSettings,
    *,
    latency: bool,
    measure: Measure | None,
    seed: int,
    console: Console,
) -> tuple[BudgetedSpace, Target | None, dict[str, Path]]:
    """Return the architectures within the budget.

    Args:
        run: keeps latency models.
        space: the architectures.
        settings: the budget; what latency is measured on.
        latency: whether it has to be known though no limit is on it.
        measure: the user's own function from network to milliseconds.
        seed: of the measuring.
        console: talks to the person.

    Returns:
        The candidates; what latency is measured on, None where it does not count or cannot be
        measured here; and the file of the latency model, if there is one, by name.

    Raises:
        BudgetError: if no architecture meets the budget, before anything is measured where the
            limits on size alone show it.
    """
    candidates = settings.by_size(space)
    if not (latency or settings.limits_latency or settings.latency):
        if measure is not None:
            raise ConfigError("measure= was given, but no limit on latency: give max_latency too.")
        return candidates, None, {}
    if settings.latency:
        path = Path(settings.latency)
        model = LatencyModel.load(path)
        target = _target_of(model, measure, console)
    else:
        target = _target(settings, measure)
        model = latency_for(run.folder, space, target, console=console, seed=seed)
        path = model_path(run.folder, space, target)
    model.require(space)
    costs = Costs(settings.export_precision, model)
    budget = Budget.of(settings.limits, space, costs)
    return BudgetedSpace(space, budget, costs), target, {"latency": path}


def _target(settings: LatencySettings, measure: Measure | None) -> Target:
    """Return what the user wants to measure on."""
    if measure is not None:
        return Target(engine="function", function=measure)
    if settings.latency_command is not None:
        return Target(
            engine="command", command=settings.latency_command, batch=settings.latency_batch
        )
    return Target(
        settings.latency_engine,
        settings.latency_device,
        settings.latency_threads,
        settings.latency_batch,
        settings.latency_precision,
    )


def _target_of(model: LatencyModel, measure: Measure | None, console: Console) -> Target | None:
    """Return what a model was measured on, if that is here; else warn."""
    said: dict[str, Any] = dict(model.target)
    target = None
    if said.get("engine") == "function":
        target = None if measure is None else Target(engine="function", function=measure)
    elif said.get("engine") == "command":
        target = Target(engine="command", command=said["command"], batch=said.get("batch", 1))
    else:
        wanted: dict[str, Any] = {name: said.get(name) for name in MEASURED_AS}
        try:
            target = Target(**wanted)
            target.require()
        except (ConfigError, KeyError, TypeError):
            target = None
    if target is None or target.describe() != said:
        console.warn(
            "The latency model was measured on another target than what is here "
            f"({', '.join(str(said.get(key)) for key in ('engine', 'name') if said.get(key))}): "
            "the winner and the front are not measured."
        )
        return None
    return target
