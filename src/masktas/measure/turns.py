"""Measuring networks in turns. Every turn is logged at once, so measuring resumes after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masktas.console import Bar, Console
from masktas.errors import ArtifactError
from masktas.files import append_lines, read_lines
from masktas.measure.clock import ONCE, Rounds, Timing, Turn, order_of_turns
from masktas.measure.meter import Meter
from masktas.measure.target import Target
from masktas.space import Architecture

SCHEMA = 1


class TurnLog:
    """Turns taken so far, by round and network, optionally in a file of JSON lines.

    Args:
        path: of the file, which is created or resumed; None keeps turns in memory only.
        target: what is measured on.

    Raises:
        ArtifactError: if the file belongs to another target.
    """

    def __init__(self, path: Path | None, target: Target) -> None:
        self._path = path
        self._turns: dict[tuple[int, str], Turn] = {}
        if path is None:
            return
        head: dict[str, Any] = {"schema": SCHEMA, "target": target.describe()}
        lines = read_lines(path)
        if not lines:
            append_lines(path, [json.dumps(head)])
        elif lines[0] != head:
            raise ArtifactError(
                f"{path}: was started on another target, {lines[0].get('target')}. Choose "
                "another --out, or add --overwrite."
            )
        for line in lines[1:]:
            key = _key(line, path)
            self._turns[key] = line["ms"]

    def __contains__(self, key: tuple[int, str]) -> bool:
        return key in self._turns

    def add(self, round_: int, network: str, turn: Turn) -> None:
        """Add a turn and write it to the file."""
        self._turns[round_, network] = turn
        if self._path is not None:
            line = {"round": round_, "network": network, "ms": turn}
            append_lines(self._path, [json.dumps(line)])

    def turns_of(self, network: str, rounds: int) -> list[Turn]:
        """Return a network's turns of the first `rounds` rounds."""
        return [self._turns[round_, network] for round_ in range(rounds)]


def _key(line: dict[str, Any], path: Path) -> tuple[int, str]:
    turn = line.get("ms")
    numbers = isinstance(turn, list) and all(isinstance(ms, float) and ms > 0 for ms in turn)
    if not numbers or not turn or not {"round", "network"} <= set(line):
        raise ArtifactError(
            f"{path}: damaged, {line} is not a turn. Add --overwrite, or delete it."
        )
    return line["round"], line["network"]


def measure_in_turns(
    architectures: Sequence[Architecture],
    target: Target,
    *,
    rounds: Rounds | None = None,
    seed: int = 0,
    log: Path | None = None,
    console: Console | None = None,
) -> list[Timing]:
    """Measure networks of random weights, round after round, until their times have settled.

    Args:
        architectures: of the networks; 1,000 classes if the number is not known.
        target: to measure on.
        rounds: how many; by default one for a user's own command or function.
        seed: of the order within each round.
        log: file of the turns; turns that it holds are not measured again.
        console: for progress.

    Returns:
        A timing for each architecture.

    Raises:
        ConfigError: if this machine cannot measure on the target.
        LatencyError: if a command or function does not return milliseconds.
    """
    rounds = rounds or (ONCE if target.is_own else Rounds())
    names = [architecture.digest() for architecture in architectures]
    turns, done, began = TurnLog(log, target), 0, time.monotonic()
    timings: list[Timing] = []
    total = len(names) * rounds.most if rounds.least == rounds.most else None
    with Meter(target) as meter, (console or Console(quiet=True)).bar("latency", total) as bar:
        while not timings or not rounds.over(done, mean_noise(timings), time.monotonic() - began):
            _take_round(architectures, meter, turns, done, seed, bar)
            done += 1
            timings = [Timing.of(turns.turns_of(name, done)) for name in names]
    return timings


def _take_round(
    architectures: Sequence[Architecture],
    meter: Meter,
    turns: TurnLog,
    round_: int,
    seed: int,
    bar: Bar,
) -> None:
    """Take one turn of every network."""
    for position, index in enumerate(order_of_turns(len(architectures), round_, seed)):
        key = round_, architectures[index].digest()
        if key not in turns:
            turns.add(*key, meter.turn(architectures[index]))
        bar.update(round_ * len(architectures) + position + 1, f"turns, round {round_ + 1}")


def mean_noise(timings: Sequence[Timing]) -> float | None:
    """Return the mean noise of timings; None if there was only one turn."""
    noises = [timing.noise for timing in timings if timing.noise is not None]
    return sum(noises) / len(noises) if noises else None
