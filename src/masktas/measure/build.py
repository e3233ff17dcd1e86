"""A latency model from measured networks, and how far it is off on others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from masktas.artifacts import read_json, write_json
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.measure.clock import Rounds, Timing
from masktas.measure.fit import errors_of, fit, fitted_networks, held_out_networks, scipy
from masktas.measure.target import Target
from masktas.measure.turns import mean_noise, measure_in_turns
from masktas.seeding import seed_for
from masktas.space import Architecture, SearchSpace
from masktas.space.latency import FIXED, LatencyModel

HELD_OUT = 20
NOISY = 0.05  # on average: no quiet machine


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
    """Measure networks of a space in turns, fit the costs of blocks, and hold them against others.

    Args:
        space: whose networks the model predicts.
        target: what is measured on.
        held_out: random networks that the model is not fitted to, measured among the others.
        seed: draws these, and the order of turns.
        rounds: how often each network has its turn; see `measure_in_turns`.
        log: a file of the turns taken; what is there is not measured again.
        console: talks to the person.

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
            "one half of its turns and the other. Measure again when nothing else runs."
        )
    times = {one: timing.median_ms for one, timing in zip([*fitted, *others], timings, strict=True)}
    costs = fit(space, {one: times[one] for one in fitted})
    model = LatencyModel(
        target.describe(), fixed_of(space), costs.stem, costs.attention, costs.mlp, {}
    )
    tried = _held_out(model, {one: times[one] for one in others}, timings)
    return dataclasses.replace(model, held_out=tried)


def _held_out(
    model: LatencyModel, times: dict[Architecture, float], timings: list[Timing]
) -> dict[str, Any]:
    """Compare the model with networks it was not fitted to; `noise_percent` is of all."""
    pairs = [(model.predict(one), ms) for one, ms in times.items()]
    noise = mean_noise(timings)
    return {
        "networks": len(pairs),
        **errors_of(pairs),
        "noise_percent": None if noise is None else 100 * noise,
        "pairs": [list(pair) for pair in pairs],
    }


def fixed_of(space: SearchSpace) -> dict[str, Any]:
    """Return what all networks of a space share, as JSON types."""
    values = {field: getattr(space, field) for field in FIXED}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def kept_at(run: Path, space: SearchSpace, target: Target) -> Path:
    """Return where a run keeps the model of a space and a target."""
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
    """Return the model that a run keeps of this target, or build it and keep it there.

    Models are kept as `RUN/latency/ENGINE-DIGEST.json`, beside the turns they are made of.

    Raises:
        BudgetError: if the file is there but damaged.
        ConfigError, LatencyError: see `measure_in_turns`.
    """
    console = console or Console(quiet=True)
    path = kept_at(run, space, target)
    if path.exists():
        model = LatencyModel.load(path)
        model.require(space)
        console.say(f"Latency is predicted by {path}.")
        return model
    console.say(f"Measuring latency: {target}.")
    return save_model(
        path,
        build_model(space, target, seed=seed, rounds=rounds, log=log_of(path), console=console),
    )


def log_of(path: Path) -> Path:
    """Return where the turns of a model are noted: beside it."""
    return path.with_suffix(".turns.jsonl")


def save_model(path: Path, model: LatencyModel) -> LatencyModel:
    """Write a model and return it as it is read back."""
    write_json(path, model.to_dict())
    return LatencyModel.from_dict(read_json(path), where=str(path))
