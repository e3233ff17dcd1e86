"""a space -> a latency model of a target; an architecture -> its measured latency."""

from __future__ import annotations

from pathlib import Path

from masktas.artifacts import ARCHITECTURE, SPACE
from masktas.console import Console
from masktas.errors import ArtifactError, ConfigError
from masktas.measure.build import (
    HELD_OUT,
    build_model,
    fixed_fields,
    model_path,
    save_model,
    turn_log_path,
)
from masktas.measure.clock import Rounds, Timing
from masktas.measure.parts import time_parts
from masktas.measure.target import Measure, Target
from masktas.measure.turns import measure_in_turns
from masktas.space import PRESETS, Architecture, SearchSpace
from masktas.space.latency import LatencyModel
from masktas.train.segmenters import load_segmenter


def build_latency(
    space: SearchSpace | str | Path,
    *,
    out: str | Path | None = None,
    target: Target | None = None,
    measure: Measure | None = None,
    held_out: int = HELD_OUT,
    seed: int = 0,
    rounds: Rounds | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> LatencyModel:
    """Measure networks of a space on a target, fit a latency model to them and write it.

    Every turn is logged in `OUT.turns.jsonl`: the same call resumes after a kill.

    Args:
        space: a space, a preset, a file, or a run folder whose supernet has a space.
        out: the JSON file to write; for a run folder, `RUN/latency/...` if None, where its
            searches look for it.
        target: what is measured on; eager torch on the CPU if None.
        measure: the user's own function, `measure(network) -> ms`, instead of a target.
        held_out: number of random networks that the model is tested on.
        seed: draws these networks.
        rounds: how often each network is measured.
        overwrite: measure afresh.
        console: where progress is shown.

    Raises:
        ArtifactError: if the file exists and is of another target or space.
        ConfigError, LatencyError, SpaceError: if target, measurements or space are invalid.
    """
    console, target = console or Console(), target_of(target, measure)
    given, space = space, find_space(space)
    path = Path(out) if out is not None else _in_run(given, space, target)
    if path.suffix != ".json":
        raise ConfigError(f"--out {path}: give a file that ends in .json.")
    if overwrite:
        for old in (path, turn_log_path(path)):
            old.unlink(missing_ok=True)
    if path.exists():
        return _there_already(path, space, target, console)
    console.say(f"Measuring latency: {target}.")
    model = build_model(
        space,
        target,
        held_out=held_out,
        seed=seed,
        rounds=rounds,
        log=turn_log_path(path),
        console=console,
    )
    return save_model(path, model)


def measure_latency(
    network: Architecture | str | Path,
    *,
    target: Target | None = None,
    measure: Measure | None = None,
    rounds: Rounds | None = None,
    console: Console | None = None,
) -> Timing:
    """Measure one inference of a network; with random weights, as speed does not depend on them.

    Args:
        network: an architecture, its file, or a folder with an architecture.json.
        target: what is measured on; eager torch on the CPU if None.
        measure: the user's own function, instead of a target.
        rounds: how often it is measured.
        console: where progress is shown.
    """
    if not isinstance(network, Architecture):
        path = Path(network)
        network = Architecture.load(path / ARCHITECTURE if path.is_dir() else path)
    target = target_of(target, measure)
    return measure_in_turns([network], target, rounds=rounds, console=console)[0]


def measure_segmenter(
    folder: str | Path, *, target: Target | None = None, rounds: Rounds | None = None
) -> dict[str, Timing]:
    """Measure `backbone` and `decoder` of a segmenter on one crop.

    Args:
        folder: of the segmenter.
        target: what is measured on; eager torch on the CPU if None.
        rounds: how often they are measured.
    """
    return time_parts(load_segmenter(Path(folder))[0], target or Target(), rounds=rounds)


def target_of(target: Target | None, measure: Measure | None) -> Target:
    """Return the target, or one of a function; raise ConfigError if both are given."""
    if measure is None:
        return target or Target()
    if target is not None:
        raise ConfigError("Give either a target or a function that measures.")
    return Target("function", function=measure)


def find_space(given: SearchSpace | str | Path) -> SearchSpace:
    """Return a space as it is, or that of a preset, a file or a run folder."""
    if isinstance(given, SearchSpace):
        return given
    path = Path(given)
    if path.is_dir() and str(given) not in PRESETS:
        for found in (path / "supernet" / SPACE, path / SPACE):
            if found.exists():
                return SearchSpace.load(found)
        raise ArtifactError(
            f"{path}: no supernet/{SPACE} there. Give a preset, a space file or a run folder whose "
            "supernet has been trained."
        )
    return SearchSpace.load(given)


def _in_run(given: SearchSpace | str | Path, space: SearchSpace, target: Target) -> Path:
    """Return where a run keeps its model; raise ConfigError where there is no run."""
    if isinstance(given, SearchSpace) or not (Path(given) / "supernet" / SPACE).exists():
        raise ConfigError("Give --out, the file that the latency model is written to.")
    return model_path(Path(given), space, target)


def _there_already(
    path: Path, space: SearchSpace, target: Target, console: Console
) -> LatencyModel:
    """Return the existing model; raise ArtifactError if it is of another target or space."""
    model = LatencyModel.load(path)
    if model.target != target.describe() or model.fixed != fixed_fields(space):
        raise ArtifactError(
            f"{path} is of another target or space. Choose another --out, or add --overwrite."
        )
    model.require(space)
    console.say(f"{path} exists already; --overwrite measures again.")
    return model
