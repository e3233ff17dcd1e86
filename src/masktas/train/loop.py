"""The training loop: the task defines loss and update; the loop logs, checkpoints, recovers, stops.

Losses stay on the device until a line is logged. A checkpoint can be made after any step: it also
holds the losses since the last line, so a resumed run writes the same lines.
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
from masktas.train.tracking import Tracking

RECOVERIES = 3
WINDOW = "log.losses"


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """Length and options of a training loop.

    Attributes:
        label: of the progress bar, the name of the stage.
        epochs, steps_per_epoch: their product is the number of steps, unless `steps` is given.
        batch_size: images of a step, over all processes.
        checkpoint_seconds: seconds between checkpoints.
        accumulate: parts in which a process computes its share of a batch.
        clip_grad: maximum norm of gradients, None for no clipping.
        tensorboard: whether to write TensorBoard files.
        steps: number of steps, if not that of whole epochs.
    """

    label: str
    epochs: int
    steps_per_epoch: int
    batch_size: int
    checkpoint_seconds: float
    accumulate: int = 1
    clip_grad: float | None = None
    tensorboard: bool = False
    steps: int | None = None

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.steps or self.epochs * self.steps_per_epoch

    @property
    def log_every(self) -> int:
        """Steps between log lines, about ten an epoch."""
        return max(1, min(50, self.steps_per_epoch // 10))

    def is_line(self, done: int) -> bool:
        """Return whether a line is logged after `done` steps."""
        return done % self.log_every == 0 or self.ends_epoch(done) or done == self.total_steps

    def ends_epoch(self, done: int) -> bool:
        """Return whether an epoch ends after `done` steps."""
        return done % self.steps_per_epoch == 0


@dataclass(frozen=True, slots=True)
class Environment:
    """What a training runs on and reports to.

    Attributes:
        runtime: device and precision.
        ranks: the processes of the job.
        stopping: when to stop before the end.
        console: shows the progress bar.
        ledger: records the seconds.
        tracking: the run in an experiment tracker, if the first process has one.
    """

    runtime: Runtime
    ranks: Ranks
    stopping: Stopping
    console: Console
    ledger: Ledger
    tracking: Tracking | None = None


class Training:
    """One training, from its last checkpoint (if there is one) to the end.

    Args:
        task: defines networks, losses and update.
        config: length and options.
        folder: of the stage; gets `metrics.jsonl`, `ledger.jsonl` and `checkpoints/`.
        environment: device, processes, console and ledger.
        after_epoch: called with the number of the epoch that has ended; returns numbers to log.
        is_enough: called with the same number once these are logged, and only for the epochs before
            the last; True ends the training there. It must depend on what is logged only, so that a
            resumed training ends alike, and be the same in all processes.
    """

    def __init__(
        self,
        task: Task[Any],
        config: LoopConfig,
        folder: Path,
        environment: Environment,
        *,
        after_epoch: Callable[[int], dict[str, float]] | None = None,
        is_enough: Callable[[int], bool] | None = None,
    ) -> None:
        self.task, self.config, self.environment = task, config, environment
        self.after_epoch, self.is_enough = after_epoch, is_enough
        self.state = TrainingState(task.module, task.optimizer)
        self.metrics = Metrics(
            folder,
            tensorboard=config.tensorboard,
            tracking=environment.tracking,
            warn=environment.console.warn,
        )
        self.checkpoints = Checkpoints(folder / "checkpoints", environment.console.warn)
        self.losses = LossBuffer()
        self.skipped: list[int] = []
        self._first = 0
        self._began = self._saved = time.monotonic()
        self._unlogged = False  # whether the newest checkpoint was written before its log line
        self._step_seconds = self._save_seconds = self._epoch_seconds = 0.0

    def run(self) -> dict[str, Any]:
        """Train to the end, or until `is_enough`.

        Returns:
            The cost: `images` seen, `flops` of the matrix products, `skipped_steps`.

        Raises:
            Stopped: after SIGTERM or at the end of `--max-time`; a checkpoint has been written.
            MasktasError: if losses are not finite more than `RECOVERIES` times.
        """
        config, stopping = self.config, self.environment.stopping
        step = self._first = self._start()
        with (
            self.environment.console.bar(config.label, config.total_steps, step) as bar,
            stopping.listening(),
            lost_rank_errors(),
        ):
            while step < config.total_steps:
                if self._unlogged:
                    self._log(step, self._read_losses(), bar)
                    if self._ends_early(step):
                        break
                began, compiled = time.monotonic(), self._seconds_of_compiling()
                self._do(step)
                self._time_step(began, compiled)
                step += 1
                stop, save = self.environment.ranks.any(
                    stopping.asked(self._reserve(step)), self._checkpoint_is_due()
                )
                if not (stop or save or config.is_line(step)):
                    continue
                values = self._read_losses()  # the device is read
                self._time_step(began, compiled)
                bad = next(self._not_finite(values), None)
                if bad:
                    step = self._recover(*bad)
                    continue
                if stop and step < config.total_steps:
                    self._save(step, owed=config.is_line(step))
                    self.environment.ranks.any()  # torchrun ends all when the first one leaves
                    raise stopping.error(f"Stopped at step {step} of {config.total_steps}")
                if config.is_line(step):
                    self._log(step, values, bar)
                    if self._ends_early(step):
                        break
                if save and step < config.total_steps:
                    self._save(step)
        return self._cost(step)

    def _ends_early(self, done: int) -> bool:
        """Return whether training ends after `done` steps, although more are planned."""
        if self.is_enough is None or not self.config.ends_epoch(done):
            return False
        return done < self.config.total_steps and self.is_enough(
            done // self.config.steps_per_epoch
        )

    def _do(self, step: int) -> None:
        """Run a step, unless it is a skipped one."""
        if step not in self.skipped:
            with self.environment.runtime.compiled():
                losses = train_step(
                    self.task,
                    step,
                    self.environment.ranks,
                    accumulate=self.config.accumulate,
                    clip_grad=self.config.clip_grad,
                )
            self.losses.add(step, losses)

    def _time_step(self, began: float, compiled: float) -> None:
        """Remember the longest step, but for those in which blocks were compiled."""
        if compiled == self._seconds_of_compiling():
            self._step_seconds = max(self._step_seconds, time.monotonic() - began)

    def _seconds_of_compiling(self) -> float:
        blocks = self.environment.runtime.blocks
        return 0.0 if blocks is None else blocks.seconds

    def _read_losses(self) -> list[list[float]]:
        """Read the buffered losses from the device: one row per step."""
        values: list[list[float]] = self.losses.tensor(self.environment.ranks).tolist()
        return values

    def _reserve(self, done: int) -> float:
        """Return the seconds needed before the next opportunity to stop."""
        after = self._epoch_seconds if self.config.ends_epoch(done) else 0.0
        return 2 * (self._step_seconds + self._save_seconds) + after

    def _start(self) -> int:
        """Resume from the newest checkpoint, or write the first one; return the next step."""
        if self.environment.ranks.is_first:
            self.checkpoints.sweep()
        step = self._restore()
        if step is None:
            if self.environment.ranks.is_first:
                self.metrics.cut(-1)
            self._save(0)  # also shows early that there is disk space for one
            return 0
        self.environment.console.say(f"Resuming from step {step}.")
        return step

    def _restore(self) -> int | None:
        """Restore everything from the newest intact checkpoint and return its step."""
        ranks = self.environment.ranks
        step = ranks.first(self.checkpoints.newest)
        if step is None:
            return None
        tensors, meta = self.checkpoints.load(step)
        values = tensors.pop(WINDOW)
        if not ranks.is_first:
            values.zero_()
        self.state.fill(tensors)
        self.losses.fill(meta["names"], meta["steps"], values.to(self.environment.runtime.device))
        self.skipped = sorted({*self.skipped, *meta["skipped"]})
        self._unlogged = meta["owed"]
        if ranks.is_first:
            self.metrics.cut(step - self._unlogged)
        return step

    def _save(self, step: int, *, owed: bool = False) -> None:
        """Write a checkpoint; `owed` if the line after this step has not been logged yet."""
        began = time.monotonic()
        values = self.losses.tensor(self.environment.ranks)
        window = {"names": self.losses.names, "steps": self.losses.steps, "owed": owed}
        if self.environment.ranks.is_first:
            tensors = {**self.state.tensors(), WINDOW: values}
            self.checkpoints.save(step, tensors, {**window, "skipped": self.skipped})
            with self._room():
                self.environment.ledger.write(step)
        self._saved = time.monotonic()
        self._save_seconds = max(self._save_seconds, self._saved - began)

    def _checkpoint_is_due(self) -> bool:
        waited = time.monotonic() - self._saved
        return self.environment.ranks.is_first and waited >= self.config.checkpoint_seconds

    def _not_finite(self, values: list[list[float]]) -> Iterator[tuple[int, str, float]]:
        """Yield step, name and value of every loss that is not a finite number."""
        for step, row in zip(self.losses.steps, values, strict=True):
            for name, value in zip(self.losses.names, row, strict=True):
                if not math.isfinite(value):
                    yield step, name, value

    def _recover(self, step: int, name: str, value: float) -> int:
        """Return to the newest checkpoint and skip the given step; return the next step.

        Random draws depend on the number of the step only, so all other steps are unchanged.
        """
        about = self.task.about(step)
        what = f"{name} is {value} at step {step}{f' ({about})' if about else ''}."
        if len(self.skipped) >= RECOVERIES:
            raise MasktasError(
                f"{self.config.label}: {what} {RECOVERIES} steps have been skipped for the same "
                "reason before. The last checkpoint is kept; start again with --overwrite and a "
                "lower --lr, or with --clip-grad 1."
            )
        self.skipped.append(step)
        good = self._restore()
        if good is None:
            raise MasktasError(
                f"{self.config.label}: {what} There is no intact checkpoint to return to. Run "
                "the same command again to start from the beginning."
            )
        times = f"{len(self.skipped)} of {RECOVERIES}"
        self.environment.console.warn(
            f"{what} Returning to step {good}; step {step} will be skipped ({times})."
        )
        return good

    def _log(self, step: int, values: list[list[float]], bar: Bar) -> None:
        """Log a line; at the end of an epoch, call `after_epoch` first."""
        config, environment = self.config, self.environment
        now = time.monotonic()
        pace = (step - self._first) * config.batch_size / max(1e-9, now - self._began)
        left = (config.total_steps - step) * config.batch_size / max(1e-9, pace)
        memory = environment.runtime.memory()
        columns = zip(self.losses.names, zip(*values, strict=True), strict=False)
        line = {name: math.fsum(column) / len(column) for name, column in columns}
        self.losses, self._unlogged = LossBuffer(), False
        means = {name: value for name, value in line.items() if "/" not in name}  # of members
        words = " ".join(f"{name} {value:.4g}" for name, value in means.items())
        self.task.schedule.step_update(step - 1)  # also if that step was skipped
        line["lr"] = self.task.optimizer.param_groups[0]["lr"]
        if self.after_epoch and config.ends_epoch(step):
            with self._room():
                line |= self.after_epoch(step // config.steps_per_epoch)
            self._epoch_seconds = max(self._epoch_seconds, time.monotonic() - now)
        if environment.ranks.is_first:
            speed = {"images_per_second": round(pace, 2), "memory_bytes": memory}
            line = {"step": step, "epoch": step / config.steps_per_epoch, **line}
            with self._room():
                self.metrics.write(line, speed)
                environment.ledger.write(step, seconds_left=round(left, 1), **speed)
        bar.update(step, f"{words} | {pace:.0f} images/s, {format_bytes(memory)}")

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Add to a write error (a full disk) which checkpoint can be resumed from."""
        try:
            yield
        except ArtifactError as error:
            raise self.checkpoints.with_newest(error) from None

    def _cost(self, steps: int) -> dict[str, Any]:
        """Return the cost of the whole training, which took so many steps."""
        done = [step for step in range(steps) if step not in self.skipped]
        macs = sum(self.task.macs(step) for step in done)
        return {
            "images": len(done) * self.config.batch_size,
            "flops": 2 * macs * self.config.batch_size,
            "skipped_steps": self.skipped,
        }
