"""The architectures within a budget, with latency predicted by a model of the user's target."""

from __future__ import annotations

from collections.abc import Callable
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
    candidates: BudgetedSpace,
    settings: CostSettings,
    *,
    latency: bool,
    measure: Measure | None,
    seed: int,
    console: Console,
    first: Callable[[Callable[[], None]], None],
    min_use: float = 0.0,
) -> tuple[BudgetedSpace, Target | None, dict[str, Path]]:
    """Apply the limits on latency too, measuring the target where no model of it exists.

    Args:
        run: keeps latency models.
        candidates: the architectures within all other limits.
        settings: the budget, and what latency is measured on.
        latency: whether latency is needed though it has no limit.
        measure: the user's own function from network to milliseconds.
        seed: of the measurements.
        console: where progress is shown.
        first: calls a function in the first of several processes while the others wait: one
            measures, and all read its model (`Ranks.first`).
        min_use: see `BudgetedSpace`.

    Returns:
        The architectures within the budget; the target of latency measurements, None if there is
        none or it is not this machine; and the file of the latency model, if there is one, by
        name.

    Raises:
        BudgetError: if no architecture meets the budget.
        ConfigError: if a function measures, but latency has no limit; or if a decoder counts.
    """
    if not (latency or settings.limits_latency or settings.latency):
        if measure is not None:
            raise ConfigError("measure= was given, but no limit on latency: give max_latency too.")
        return candidates, None, {}
    settings.require_counted("latency")
    space = candidates.space
    if settings.latency:
        path = Path(settings.latency)
        model = LatencyModel.load(path)
        target = _target_of(model, measure, console)
    else:
        target = latency_target(settings, measure)
        first(lambda: _measured(run, space, target, console, seed))
        path = model_path(run.folder, space, target)
        model = LatencyModel.load(path)
    model.require(space)
    costs = Costs(settings.export_precision, model)
    budget = Budget.of(settings.limits, space, costs)
    limited = BudgetedSpace(space, budget, costs, min_use=min_use)
    return limited, target, {"latency": path}


def _measured(run: Run, space: SearchSpace, target: Target, console: Console, seed: int) -> None:
    """Measure, unless the run has a model."""
    latency_for(run.folder, space, target, console=console, seed=seed)


def latency_target(settings: LatencySettings, measure: Measure | None) -> Target:
    """Return the target that the user wants to measure on."""
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
    """Return the target of a model if it is this machine; else warn and return None."""
    recorded: dict[str, Any] = dict(model.target)
    target = None
    if recorded.get("engine") == "function":
        target = None if measure is None else Target(engine="function", function=measure)
    elif recorded.get("engine") == "command":
        command, batch = recorded["command"], recorded.get("batch", 1)
        target = Target(engine="command", command=command, batch=batch)
    else:
        options: dict[str, Any] = {name: recorded.get(name) for name in MEASURED_AS}
        try:
            target = Target(**options)
            target.require()
        except (ConfigError, KeyError, TypeError):
            target = None
    if target is None or target.describe() != recorded:
        console.warn(
            "The latency model was measured on another target than this one "
            f"({', '.join(str(recorded[key]) for key in ('engine', 'name') if recorded.get(key))}):"
            " the winner and the front are not measured."
        )
        return None
    return target
