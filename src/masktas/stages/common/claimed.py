"""A stage's folder while a process works in it: trainings, their cost, and the end of the stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from masktas.artifacts import SETTINGS, Stage
from masktas.config import SegmentSettings, TrainSettings
from masktas.console import Console
from masktas.data.batches import Batches
from masktas.data.joint import JointBatches
from masktas.files import read_json
from masktas.stages.common.images import Started
from masktas.stages.common.tasks import loop_config
from masktas.train.checkpoint import Checkpoints
from masktas.train.log import Ledger
from masktas.train.loop import Environment, Training
from masktas.train.optim.schedule import scaled_lr
from masktas.train.task import Task
from masktas.train.tracking import Tracking

if TYPE_CHECKING:
    from masktas.stages.common.stage import Context


class Summarised(Protocol):
    """Images that describe themselves for a manifest."""

    def summary(self) -> dict[str, Any]:
        """Return splits, and what could not be read."""
        ...


class ClaimedStage:
    """A stage's folder, claimed by this process until its `with` block ends.

    Args:
        context: what the stage was given.
        stage: the folder.
        parents: the files it is made from, by name.
        todo: whether the stage is not finished yet.

    Attributes:
        folder: where its files are.
        todo: whether the stage is not finished yet.
        ledger: seconds spent on it, also by attempts that were killed.
    """

    def __init__(
        self, context: Context, stage: Stage, parents: dict[str, Path], *, todo: bool
    ) -> None:
        self._context, self._stage, self._parents = context, stage, parents
        self.folder = stage.folder
        self.todo = todo
        self.ledger = Ledger(stage.folder, writes=todo and context.ranks.is_first)
        self._tracking: Tracking | None = None  # of the last training
        context.runtime.forget_memory()

    def manifest(self) -> dict[str, Any]:
        """Read the manifest of a finished stage."""
        return self._stage.manifest()

    def train(
        self,
        task: Task[Any],
        settings: TrainSettings | SegmentSettings,
        batches: Batches | JointBatches,
        after_epoch: Callable[[int], dict[str, float]] | None = None,
        *,
        is_enough: Callable[[int], bool] | None = None,
        folder: Path | None = None,
        about: str = "",
        steps: int | None = None,
    ) -> dict[str, Any]:
        """Train a task to the end and return what it cost.

        Args:
            task: defines networks, losses and update.
            settings: length, batch size and clipping.
            batches: of the images.
            after_epoch: called with the number of the epoch that has ended; returns numbers to log.
            is_enough: ends the training after an epoch, see `Training`.
            folder: of metrics and checkpoints; the stage's own if None.
            about: which training of the stage it is, where there are several.
            steps: number of steps, if not that of whole epochs.
        """
        context = self._context
        label = f"{self._stage.name} {about}".rstrip()
        loop = loop_config(label, settings, batches, context.settings, steps)
        context.ranks.rows(loop.batch_size, loop.accumulate)  # refused before anything else
        processes = "process" if context.ranks.size == 1 else "processes"
        context.console.say(
            f"{loop.label}: {loop.total_steps:,} steps of {loop.batch_size} images "
            f"({context.ranks.size} {processes}, accumulate {loop.accumulate}); learning rate "
            f"{settings.lr:g} for 256 images, so {scaled_lr(settings.lr, loop.batch_size):.3g}"
        )
        if context.runtime.blocks is not None:
            context.console.say(
                "Blocks are compiled when a shape is first met: that takes 10 to 30 seconds each, "
                "and less when they are compiled again.",
                once=True,
            )
        folder = folder or self.folder
        tracking = self._track(folder)
        environment = Environment(
            context.runtime, context.ranks, context.stopping, context.console, self.ledger, tracking
        )
        training = Training(
            task, loop, folder, environment, after_epoch=after_epoch, is_enough=is_enough
        )
        try:
            return training.run()
        except BaseException:
            if tracking:
                tracking.finish(None, done=False)
            raise

    def _track(self, folder: Path) -> Tracking | None:
        """End the tracked run of the training before, and return that of the next one."""
        context = self._context
        if context.settings.track == "none" or not context.ranks.is_first:
            return None
        if self._tracking:
            self._tracking.finish(None, done=True)
        run = context.run.folder
        self._tracking = Tracking(
            context.settings.track,
            folder,
            name=f"{run.resolve().name}/{folder.relative_to(run)}",
            config=read_json(self.folder / SETTINGS),
            warn=context.console.warn,
        )
        return self._tracking

    def finish(
        self, images: Summarised, cost: dict[str, Any], write: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Let the first process write results and manifest, and return the manifest to all.

        Args:
            images: describes the images that were read, such as their store.
            cost: the `images` seen and the `flops` of their matrix products; the ledger's seconds
                are added, and which share of this machine's peak the products came to.
            write: writes the stage's files and returns the entries of the manifest about them.
        """
        context = self._context

        def finish() -> dict[str, Any]:
            results = write()
            content = {"images": images.summary(), "cost": self._cost(cost), **results}
            started = Started.read(self._stage)
            if started is not None and started.earlier:
                content["earlier_images"] = started.earlier
            manifest = self._stage.finish(content, self._parents)
            drop_checkpoints(self._stage, context.console)
            if self._tracking:
                self._tracking.finish(manifest, done=True)
            return manifest

        return context.ranks.first(finish)

    def _cost(self, cost: dict[str, Any]) -> dict[str, Any]:
        runtime, ranks = self._context.runtime, self._context.ranks
        seconds = self.ledger.seconds
        peak = runtime.peak_flops() * ranks.size
        return {
            "seconds": round(seconds, 3),
            **cost,
            "peak_flops": peak,
            "share_of_peak": cost["flops"] / seconds / peak,
            "memory_bytes": runtime.memory(),
            "attempts": self.ledger.attempt,
            "processes": ranks.size,
            **runtime.describe(),
        }


def drop_checkpoints(stage: Stage, console: Console) -> None:
    """Delete the checkpoints of a finished stage."""
    Checkpoints(stage.folder / "checkpoints", console.warn).clear()
