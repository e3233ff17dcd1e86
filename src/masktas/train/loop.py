"""The one training loop. What a step learns is the task's affair; all the rest is ours.

Losses stay on the device until a line is logged. A checkpoint can be made after any step: it
holds the losses since the last line too, so a resumed run also writes the same lines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.console import Bar, Console
from masktas.errors import ArtifactError, MasktasError
from masktas.formats import format_bytes
from masktas.stopping import Stopping
from masktas.train.checkpoint import Checkpoints, TrainingState
from masktas.train.log import Ledger, LossBuffer, Metrics
from masktas.train.ranks import Ranks, lost_rank_errors
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.task import Task

RECOVERIES = 3
WINDOW = "log.losses"


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How long to train, and how.

    Attributes:
        label: of the progress bar.
        epochs, steps_per_epoch: their product is the number of steps.
        batch_size: images of a step, over all processes.
        checkpoint_seconds: time between checkpoints.
        accumulate: parts in which a process computes its share of a batch.
        clip_grad: norm that gradients are scaled down to, if any.
        tensorboard: whether to write for it.
    """

    label: str
    epochs: int
    steps_per_epoch: int
    batch_size: int
    checkpoint_seconds: float
    accumulate: int = 1
    clip_grad: float | None = None
    tensorboard: bool = False

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def log_every(self) -> int:
        """Steps between log lines, about ten an epoch."""
        return max(1, min(50, self.steps_per_epoch // 10))

    def is_line(self, done: int) -> bool:
        """Say whether a line is logged after `done` steps."""
        return done % self.log_every == 0 or self.ends_epoch(done)

    def ends_epoch(self, done: int) -> bool:
        """Say whether an epoch is over after `done` steps."""
        return done % self.steps_per_epoch == 0


@dataclass(frozen=True, slots=True)
class Environment:
    """What a training runs on, and who watches it.

    Attributes:
        runtime: device and precision.
        ranks: the processes of the job.
        stopping: when to stop before the end.
        console: shows the bar.
        ledger: counts the seconds.
    """

    runtime: Runtime
    ranks: Ranks
    stopping: Stopping
    console: Console
    ledger: Ledger


class Training:
    """A training under way: from the last checkpoint, where there is one, to the end.

    Args:
        task: what is learnt.
        plan: how long.
        folder: of the stage; gets `metrics.jsonl`, `ledger.jsonl` and `checkpoints/`.
        machine: where, and who watches.
        after_epoch: is called with the number of the epoch that has ended; its numbers are logged.
    """

    def __init__(
        self,
        task: Task[Any],
        plan: LoopConfig,
        folder: Path,
        machine: Environment,
        *,
        after_epoch: Callable[[int], dict[str, float]] | None = None,
    ) -> None:
        self.task, self.plan, self.machine = task, plan, machine
        self.after_epoch = after_epoch
        self.state = TrainingState(task.module, task.optimizer)
        self.metrics = Metrics(folder, tensorboard=plan.tensorboard, warn=machine.console.warn)
        self.checkpoints = Checkpoints(folder / "checkpoints", machine.console.warn)
        self.window = LossBuffer()
        self.skipped: list[int] = []
        self._first = 0
        self._began = self._saved = time.monotonic()
        self._unlogged = False  # a line that a checkpoint was made before
        self._step_seconds = self._save_seconds = self._epoch_seconds = 0.0

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            What it took: `images` seen, `flops` of the matrix products, `skipped_steps`.

        Raises:
            Stopped: if it was asked to stop; a checkpoint has been made.
            MasktasError: if losses are not finite again and again.
        """
        plan, stopping = self.plan, self.machine.stopping
        step = self._first = self._start()
        with (
            self.machine.console.bar(plan.label, plan.total_steps, step) as bar,
            stopping.listening(),
            lost_rank_errors(),
        ):
            while step < plan.total_steps:
                if self._unlogged:
                    self._log(step, self._losses(), bar)
                began = time.monotonic()
                self._do(step)
                self._step_seconds = max(self._step_seconds, time.monotonic() - began)
                step += 1
                stop, save = self.machine.ranks.any(
                    stopping.asked(self._reserve(step)), self._checkpoint_is_due()
                )
                if not (stop or save or plan.is_line(step)):
                    continue
                values = self._losses()  # the device is read
                self._step_seconds = max(self._step_seconds, time.monotonic() - began)
                bad = next(self._not_finite(values), None)
                if bad:
                    step = self._recover(*bad)
                    continue
                if stop and step < plan.total_steps:
                    self._save(step, owed=plan.is_line(step))
                    self.machine.ranks.any()  # torchrun ends all when the first one leaves
                    raise stopping.error(f"Stopped at step {step} of {plan.total_steps}")
                if plan.is_line(step):
                    self._log(step, values, bar)
                if save and step < plan.total_steps:
                    self._save(step)
        return self._cost()

    def _do(self, step: int) -> None:
        """Do a step, unless it is one that is left out."""
        if step not in self.skipped:
            losses = train_step(
                self.task,
                step,
                self.machine.ranks,
                accumulate=self.plan.accumulate,
                clip_grad=self.plan.clip_grad,
            )
            self.window.add(step, losses)

    def _losses(self) -> list[list[float]]:
        """Read the window from the device: a row a step."""
        values: list[list[float]] = self.window.tensor(self.machine.ranks).tolist()
        return values

    def _reserve(self, done: int) -> float:
        """Return the seconds to keep for what comes before the next chance to stop."""
        after = self._epoch_seconds if self.plan.ends_epoch(done) else 0.0
        return 2 * (self._step_seconds + self._save_seconds) + after

    def _start(self) -> int:
        """Go on from the newest checkpoint, or make the first; return the step to do next."""
        if self.machine.ranks.is_first:
            self.checkpoints.sweep()
        step = self._restore()
        if step is None:
            if self.machine.ranks.is_first:
                self.metrics.cut(-1)
            self._save(0)  # also shows that there is room for one
            return 0
        self.machine.console.say(f"Going on from step {step}.")
        return step

    def _restore(self) -> int | None:
        """Fill everything from the newest checkpoint that is whole and return its step."""
        ranks = self.machine.ranks
        step = ranks.first(self.checkpoints.newest)
        if step is None:
            return None
        tensors, meta = self.checkpoints.load(step)
        values = tensors.pop(WINDOW)
        if not ranks.is_first:
            values.zero_()
        self.state.fill(tensors)
        self.window.fill(meta["names"], meta["steps"], values.to(self.machine.runtime.device))
        self.skipped = sorted({*self.skipped, *meta["skipped"]})
        self._unlogged = meta["owed"]
        if ranks.is_first:
            self.metrics.cut(step - self._unlogged)
        return step

    def _save(self, step: int, *, owed: bool = False) -> None:
        """Make a checkpoint; `owed` if the line after this step has not been logged."""
        began = time.monotonic()
        values = self.window.tensor(self.machine.ranks)
        window = {"names": self.window.names, "steps": self.window.steps, "owed": owed}
        if self.machine.ranks.is_first:
            tensors = {**self.state.tensors(), WINDOW: values}
            self.checkpoints.save(step, tensors, {**window, "skipped": self.skipped})
            with self._room():
                self.machine.ledger.write(step)
        self._saved = time.monotonic()
        self._save_seconds = max(self._save_seconds, self._saved - began)

    def _checkpoint_is_due(self) -> bool:
        waited = time.monotonic() - self._saved
        return self.machine.ranks.is_first and waited >= self.plan.checkpoint_seconds

    def _not_finite(self, values: list[list[float]]) -> Iterator[tuple[int, str, float]]:
        """Yield step, name and value of every loss that is not a finite number."""
        for step, row in zip(self.window.steps, values, strict=True):
            for name, value in zip(self.window.names, row, strict=True):
                if not math.isfinite(value):
                    yield step, name, value

    def _recover(self, step: int, name: str, value: float) -> int:
        """Go back to the newest checkpoint, to leave the step out; return the step to do next.

        What is drawn hangs on the step's number, so all others will be what they were.
        """
        about = self.task.about(step)
        what = f"{name} is {value} at step {step}{f' ({about})' if about else ''}."
        if len(self.skipped) >= RECOVERIES:
            raise MasktasError(
                f"{self.plan.label}: {what} {RECOVERIES} steps have been left out for such a thing "
                "before. The last checkpoint is kept; start afresh with --overwrite and a lower "
                "--lr, or with --clip-grad 1."
            )
        self.skipped.append(step)
        good = self._restore()
        if good is None:
            raise MasktasError(
                f"{self.plan.label}: {what} There is no whole checkpoint to go back to. Give the "
                "same command again to start afresh."
            )
        times = f"{len(self.skipped)} of {RECOVERIES}"
        self.machine.console.warn(
            f"{what} Going back to step {good}; step {step} will be left out ({times})."
        )
        return good

    def _log(self, step: int, values: list[list[float]], bar: Bar) -> None:
        """Write a line, after what an epoch's end asks for."""
        plan, machine = self.plan, self.machine
        now = time.monotonic()
        pace = (step - self._first) * plan.batch_size / max(1e-9, now - self._began)
        left = (plan.total_steps - step) * plan.batch_size / max(1e-9, pace)
        memory = machine.runtime.memory()
        columns = zip(self.window.names, zip(*values, strict=True), strict=False)
        line = {name: math.fsum(column) / len(column) for name, column in columns}
        self.window, self._unlogged = LossBuffer(), False
        words = " ".join(f"{name} {value:.4g}" for name, value in line.items())
        self.task.schedule.step_update(step - 1)  # also if that step was left out
        line["lr"] = self.task.optimizer.param_groups[0]["lr"]
        if self.after_epoch and plan.ends_epoch(step):
            line |= self.after_epoch(step // plan.steps_per_epoch)
            self._epoch_seconds = max(self._epoch_seconds, time.monotonic() - now)
        if machine.ranks.is_first:
            speed = {"images_per_second": round(pace, 2), "memory_bytes": memory}
            line = {"step": step, "epoch": step / plan.steps_per_epoch, **line}
            with self._room():
                self.metrics.write(line, speed)
                machine.ledger.write(step, seconds_left=round(left, 1), **speed)
        bar.update(step, f"{words} | {pace:.0f} images/s, {format_bytes(memory)}")

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Where there is no room to write, say what there is to go on from."""
        try:
            yield
        except ArtifactError as error:
            raise self.checkpoints.with_newest(error) from None

    def _cost(self) -> dict[str, Any]:
        """Count what the whole training took."""
        done = [step for step in range(self.plan.total_steps) if step not in self.skipped]
        macs = sum(self.task.macs(step) for step in done)
        return {
            "images": len(done) * self.plan.batch_size,
            "flops": 2 * macs * self.plan.batch_size,
            "skipped_steps": self.skipped,
        }
