"""Building a latency model from measured networks, and its error on held-out ones."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from masktas.artifacts import Stage
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.files import read_json, write_json
from masktas.measure.clock import Rounds, Timing
from masktas.measure.fit import (
    FittedCosts,
    errors_of,
    fit,
    fitted_networks,
    held_out_networks,
    scipy,
)
from masktas.measure.target import Target
from masktas.measure.turns import mean_noise, measure_in_turns
from masktas.seeding import seed_for
from masktas.space import Architecture, SearchSpace
from masktas.space.latency import FIXED, LatencyModel

HELD_OUT = 20
NOISY = 0.05  # mean noise of timings on a busy machine


def build_model(
    space: SearchSpace,
    target: Target,
    *,
    held_out: int = HELD_OUT,
    seed: int = 0,
    rounds: Rounds | None = None,
    log: Path | None = None,
    console: Console | None = None,
) -> LatencyModel:
    """Measure networks of a space in turns, fit costs of blocks, and compare on held-out networks.

    Args:
        space: of the networks that the model predicts.
        target: what is measured on.
        held_out: number of random networks that are measured but not fitted.
        seed: of these networks and of the order of turns.
        rounds: number of turns of each network; see `measure_in_turns`.
        log: file of the turns; turns that it holds are not measured again.
        console: for progress and warnings.

    Raises:
        ConfigError, LatencyError: see `measure_in_turns`.
    """
    if type(held_out) is not int or held_out < 0:
        raise ConfigError(f"held_out is {held_out!r}: give a whole number, 0 for none.")
    scipy("optimize")  # refused before anything is measured
    fitted = fitted_networks(space)
    others = held_out_networks(space, held_out, seed_for(seed, "latency", "held out"))
    timings = measure_in_turns(
        [*fitted, *others], target, rounds=rounds, seed=seed, log=log, console=console
    )
    noise = mean_noise(timings)
    if console is not None and noise is not None and noise > NOISY:
        console.warn(
            f"This machine is not quiet: times of the same network differ by {noise:.0%} between "
            "the two halves of its turns. Measure again when nothing else runs."
        )
    times = {one: timing.median_ms for one, timing in zip([*fitted, *others], timings, strict=True)}
    costs = fit(space, {one: times[one] for one in fitted})
    tried = _held_out(costs, {one: times[one] for one in others}, timings)
    return LatencyModel(
        target.describe(), fixed_fields(space), costs.stem, costs.attention, costs.mlp, tried
    )


def _held_out(
    costs: FittedCosts, times: dict[Architecture, float], timings: list[Timing]
) -> dict[str, Any]:
    """Compare the fit with held-out networks; `noise_percent` is over all networks."""
    pairs = [(costs.milliseconds(one), ms) for one, ms in times.items()]
    noise = mean_noise(timings)
    return {
        "networks": len(pairs),
        **errors_of(pairs),
        "noise_percent": None if noise is None else 100 * noise,
        "pairs": [list(pair) for pair in pairs],
    }


def fixed_fields(space: SearchSpace) -> dict[str, Any]:
    """Return the fields that all networks of a space share, as JSON types."""
    values = {field: getattr(space, field) for field in FIXED}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def model_path(run: Path, space: SearchSpace, target: Target) -> Path:
    """Return the path of a run's latency model of a space and a target."""
    made_of = json.dumps([space.to_dict() | {"name": ""}, target.describe()], sort_keys=True)
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:8]
    return run / "latency" / f"{target.engine}-{digest}.json"


def latency_for(
    run: Path,
    space: SearchSpace,
    target: Target,
    *,
    console: Console | None = None,
    seed: int = 0,
    rounds: Rounds | None = None,
) -> LatencyModel:
    """Load a run's latency model of a space and a target, or build and save it.

    The path is `RUN/latency/ENGINE-DIGEST.json`; the turns are in a file beside it.

    Raises:
        BudgetError: if the file exists but is damaged.
        ArtifactError: if another process measures in this run.
        ConfigError, LatencyError: see `measure_in_turns`.
    """
    console = console or Console(quiet=True)
    path = model_path(run, space, target)
    if path.exists():
        model = LatencyModel.load(path)
        model.require(space)
        console.say(f"Latency is predicted by {path}.")
        return model
    console.say(f"Measuring latency: {target}.")
    log = turn_log_path(path)
    with ExitStack() as held:
        held.callback(os.close, Stage("latency", path.parent).lock())
        model = build_model(space, target, seed=seed, rounds=rounds, log=log, console=console)
        return save_model(path, model)


def turn_log_path(path: Path) -> Path:
    """Return the path of the file of turns: beside the model."""
    return path.with_suffix(".turns.jsonl")


def save_model(path: Path, model: LatencyModel) -> LatencyModel:
    """Write a model and read it back."""
    write_json(path, model.to_dict())
    return LatencyModel.from_dict(read_json(path), where=str(path))
