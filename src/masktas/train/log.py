"""Logs of a training: metrics, the ledger of its cost, TensorBoard, and the buffer of losses.

`metrics.jsonl` holds losses and is identical for every run with the same seed. `ledger.jsonl` holds
times and speeds of every attempt.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masktas.artifacts import LEDGER, METRICS
from masktas.errors import ConfigError
from masktas.files import append_lines, read_lines, write_text
from masktas.train.ranks import Ranks
from masktas.train.tracking import Tracking

TENSORBOARD = "tensorboard"


class Ledger:
    """Seconds spent on a stage, including attempts that were killed.

    Args:
        folder: of the stage.
        writes: whether this process writes the file.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self._path = folder / LEDGER
        self._writes = writes
        spent: Counter[int] = Counter()
        for line in read_lines(self._path) if writes else []:
            spent[line["attempt"]] = line["seconds"]
        self.attempt = max(spent, default=0) + 1
        self._before = sum(spent.values())
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of all attempts."""
        return self._before + time.monotonic() - self._began

    def write(self, step: int, **figures: float | None) -> None:
        """Append a line: step, seconds and speed of this attempt."""
        if self._writes:
            seconds = round(time.monotonic() - self._began, 3)
            line = {"attempt": self.attempt, "step": step, "seconds": seconds, **figures}
            append_lines(self._path, [json.dumps(line)])


class Metrics:
    """`metrics.jsonl`, and beside it TensorBoard and a tracker if wanted."""

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool,
        tracking: Tracking | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._path = folder / METRICS
        self._events = folder / TENSORBOARD if tensorboard else None
        self._writer: Any = None
        self._tracking = tracking
        self._warn = warn

    def cut(self, step: int) -> None:
        """Drop the lines after a step; a resumed training writes them again."""
        kept = [line for line in read_lines(self._path) if line["step"] <= step]
        if kept or self._path.exists():
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        if self._events:
            from masktas.train.events import Events

            with self._spared():
                self._writer = Events(self._events, purge_step=step + 1)
        if self._tracking:
            self._tracking.start(kept)

    def write(self, line: dict[str, float], speed: dict[str, float]) -> None:
        """Append a line of `step`, `epoch` and numbers; `speed` goes to TensorBoard only."""
        append_lines(self._path, [json.dumps(line)])
        with self._spared():
            if self._writer:
                for name, value in {**line, **speed}.items():
                    if name != "step":
                        self._writer.add_scalar(name, value, int(line["step"]))
        if self._tracking:
            self._tracking.log(line)

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Continue without TensorBoard if it is missing, or if its files cannot be written."""
        try:
            yield
        except ConfigError as error:
            self._writer = self._events = None
            self._warn(f"{error} Training continues without it.")
        except OSError as error:
            self._writer = self._events = None
            self._warn(f"TensorBoard's files cannot be written ({error}): continuing without.")


class LossBuffer:
    """The losses of the steps since the last log line, on the device until they are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[int] = []
        self._values: list[Tensor] = []

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Append the losses of a step."""
        self.names = list(losses)
        self.steps.append(step)
        self._values.append(torch.stack(list(losses.values())))

    def tensor(self, ranks: Ranks) -> Tensor:
        """Return the losses of the whole job, `[steps, names]`; the first process keeps them."""
        if not self._values:
            return torch.zeros(0, len(self.names), dtype=torch.float64)
        values = ranks.sum(torch.stack(self._values))
        self._values = list(values if ranks.is_first else torch.zeros_like(values))
        return values

    def fill(self, names: list[str], steps: list[int], values: Tensor) -> None:
        """Restore the content of a checkpoint."""
        self.names, self.steps, self._values = list(names), list(steps), list(values)
