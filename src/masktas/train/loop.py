"""The one training loop. What a step does is the stage's affair; when to log and save is ours."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from masktas.artifacts import append_lines, read_lines, write_text
from masktas.console import Console, format_seconds
from masktas.errors import MasktasError
from masktas.seeding import seed_for
from masktas.train.checkpoint import Checkpoints, TrainingState

Step = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to train and how often to look up.

    Attributes:
        label: of the progress bar.
        epochs, steps_per_epoch: their product is the number of steps.
        batch_size: images of a step.
        seed: names the random numbers that library layers draw (drop path).
        checkpoint_seconds: time between checkpoints.
    """

    label: str
    epochs: int
    steps_per_epoch: int
    batch_size: int
    seed: int
    checkpoint_seconds: float

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def log_every(self) -> int:
        """Steps between log lines, about ten an epoch."""
        return max(1, min(50, self.steps_per_epoch // 10))


def fit(
    step: Step,
    plan: Plan,
    state: TrainingState,
    folder: Path,
    console: Console,
    *,
    after_epoch: Callable[[int], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Call `step(0)`, `step(1)`, ... to the end, from the last checkpoint where there is one.

    Losses are averaged between log lines and read from the device there only. Checkpoints are
    made at log lines, so that a resumed run writes the same lines as an uninterrupted one.

    Args:
        step: does one optimisation step and returns its losses, scalars on the device.
        plan: how long.
        state: what a checkpoint holds.
        folder: of the stage; gets `metrics.jsonl` and `checkpoints/`.
        console: shows the bar.
        after_epoch: is called with the number of the epoch that has ended; its numbers are logged.

    Returns:
        The cost: `seconds` of all attempts together and `images` seen.

    Raises:
        MasktasError: if a loss is no longer a finite number.
    """
    checkpoints = Checkpoints(folder / "checkpoints", console.warn)
    metrics = folder / "metrics.jsonl"
    first, spent = _resume(checkpoints, state, metrics, console)
    began = saved = time.monotonic()
    losses: dict[str, Tensor] = {}
    since = 0
    with console.bar(plan.label, plan.total_steps, first) as bar:
        for index in range(first, plan.total_steps):
            torch.manual_seed(seed_for(plan.seed, "layers", index))
            for name, value in step(index).items():
                losses[name] = losses[name] + value if name in losses else value
            since += 1
            done = index + 1
            ended = done % plan.steps_per_epoch == 0
            if not (ended or done % plan.log_every == 0):
                continue
            line: dict[str, float] = {name: value.item() / since for name, value in losses.items()}
            _require_finite(line, done, plan.label)
            losses, since = {}, 0
            now = time.monotonic()
            pace = (done - first) * plan.batch_size / max(1e-9, now - began)
            words = " ".join(f"{name} {value:.4g}" for name, value in line.items())
            if ended and after_epoch:
                line |= after_epoch(done // plan.steps_per_epoch)
            append_lines(
                metrics, [json.dumps({"step": done, "epoch": done / plan.steps_per_epoch, **line})]
            )
            bar.update(done, f"{words} | {pace:.0f} images/s")
            if now - saved >= plan.checkpoint_seconds and done < plan.total_steps:
                checkpoints.save(done, state.tensors(), {"seconds": spent + now - began})
                saved = now
    seconds = spent + time.monotonic() - began
    return {"seconds": round(seconds, 3), "images": plan.total_steps * plan.batch_size}


def _resume(
    checkpoints: Checkpoints, state: TrainingState, metrics: Path, console: Console
) -> tuple[int, float]:
    """Fill the state from the newest checkpoint; cut the log to it. Return step and seconds."""
    found = checkpoints.newest()
    if found is None:
        metrics.unlink(missing_ok=True)
        return 0, 0.0
    tensors, meta = found
    state.fill(tensors)
    kept = [line for line in read_lines(metrics) if line["step"] <= meta["step"]]
    write_text(metrics, "".join(json.dumps(line) + "\n" for line in kept))
    spent = format_seconds(meta["seconds"])
    console.say(f"Going on from step {meta['step']} ({spent} in).")
    return int(meta["step"]), float(meta["seconds"])


def _require_finite(line: dict[str, float], step: int, label: str) -> None:
    for name, value in line.items():
        if not math.isfinite(value):
            raise MasktasError(
                f"{label}: {name} is {value} by step {step}. The last checkpoint is kept; start "
                "afresh with --overwrite and a lower --lr."
            )
