"""What every stage is given: the run, the images, the machine and someone to talk to."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas import launch
from masktas.artifacts import Run, Stage, file_digest
from masktas.config import DataSettings, RuntimeSettings, Settings, TrainSettings, resolve
from masktas.console import Console
from masktas.data.batches import Augment, Batches
from masktas.data.sources import Source, canonical, open_source
from masktas.data.store.build import Cache, StoreSpec
from masktas.data.store.image_store import ImageStore, SplitAccess, open_store
from masktas.errors import ConfigError, DataError, MasktasError
from masktas.formats import format_size, parse_bytes, parse_size
from masktas.space import Architecture
from masktas.stages.common.tasks import Setup, augment
from masktas.stopping import Stopping
from masktas.train.checkpoint import Checkpoints
from masktas.train.log import Ledger
from masktas.train.loop import Environment, LoopConfig, Training
from masktas.train.optim.sliced_adamw import scaled_lr
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime
from masktas.train.task import Task

PYTHON = "python:"  # begins the name of images that are a Python object
Data = str | Path | object  # where images are, or a Python data set of them


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Where the images are and how they are read; `image_size` and `in_channels` are set.

    Attributes:
        location: what names the source, from any working directory.
        settings: sizes and shares.
        given: the source itself, where it is a Python object.
    """

    location: str
    settings: DataSettings
    given: object = None

    @staticmethod
    def of(data: Data, settings: DataSettings) -> ImageInput:
        """Take what a user gave."""
        if isinstance(data, str | Path):
            return ImageInput(canonical(data), settings)
        return ImageInput(PYTHON + open_source(data).location, settings, data)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of what networks see."""
        assert self.settings.image_size is not None
        return parse_size(self.settings.image_size)

    @property
    def in_channels(self) -> int:
        """1 for grey, 3 for colour, or any other number."""
        assert self.settings.in_channels is not None
        return self.settings.in_channels

    def source(self, *, download: bool = False) -> Source:
        """Open the source."""
        settings = self.settings
        return open_source(
            self.location if self.given is None else self.given,
            root=settings.root,
            download=download,
            image_column=settings.image_column,
            label_column=settings.label_column,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a stage's settings record of the images."""
        return {"location": self.location, **self.settings.model_dump(mode="json")}

    def require_fit(self, architecture: Architecture, whose: str) -> None:
        """Raise DataError unless a network of that architecture sees images of this size."""
        size, channels = architecture.image_size, architecture.in_channels
        if size != self.image_size or channels != self.in_channels:
            raise DataError(
                f"The images are read as {self.image_size[0]} x {self.image_size[1]} pixels of "
                f"{self.in_channels} channels, but {whose} sees {size[0]} x {size[1]} of "
                f"{channels}: give --image-size {format_size(size)} --in-channels {channels}."
            )


class Context:
    """One stage at work.

    Args:
        out: the run folder.
        runtime: seed, device, precision.
        console: talks to the person.
        overwrite: start the stage afresh instead of going on.
    """

    def __init__(
        self,
        out: str | Path,
        runtime: RuntimeSettings | None,
        console: Console | None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.run = Run(Path(out))
        self.settings = runtime or RuntimeSettings()
        self.ranks = Ranks.join()
        self.runtime = Runtime.choose(
            self.settings.device, self.settings.precision, recompute=self.settings.recompute
        )
        self.console = console or Console()
        self.stopping = Stopping(self.settings.max_time)
        self.overwrite = overwrite

    @property
    def seed(self) -> int:
        """Names every random number."""
        return self.settings.seed

    def begin(
        self, stage: Stage, settings: Settings, *, parents: dict[str, Path], **more: Any
    ) -> bool:
        """Claim a stage's folder; return whether there is anything left to do.

        Args:
            stage: the folder.
            settings: of the stage.
            parents: the files it is made from, by name; others later are other settings.
            more: what else the claim records.
        """
        if stage.finished and not self.overwrite:
            stage.require_fresh()
        recorded = {
            "parents": {name: file_digest(path) for name, path in parents.items()},
            "settings": settings.model_dump(mode="json"),
            "seed": self.seed,
            "precision": self.runtime.describe()["precision"],
            **more,  # last: what follows from the others is not what a refusal should name
        }

        def claim() -> bool:
            # before anything is dropped; held until the stage is finished, or this object is gone
            self._unlock = weakref.finalize(self, os.close, stage.lock())
            stage.sweep()
            # a job that torchrun starts again goes on with what it was overwriting with
            again = launch.restarted() and stage.overwritten_by() == launch.job()
            todo = stage.begin(recorded, overwrite=self.overwrite and not again)
            if self.overwrite:
                stage.note_overwritten(launch.job())
            if not todo:  # a process may have been killed after its manifest
                Checkpoints(stage.folder / "checkpoints", self.console.warn).clear()
            return todo

        todo = self.ranks.first(claim)
        if todo:
            self.ledger = Ledger(stage.folder, writes=self.ranks.is_first)
        else:
            self.console.say(f"{stage.folder} is finished: nothing to do.")
        return todo

    def images_given(
        self,
        data: Data,
        settings: DataSettings | None,
        *,
        image_size: tuple[int, int],
        in_channels: int,
    ) -> ImageInput:
        """Resolve what the user gave; sizes that were not said are the ones given here."""
        sizes = {"image_size": format_size(image_size), "in_channels": in_channels}
        return ImageInput.of(data, resolve(DataSettings, sizes, settings))

    def images_recorded(
        self, before: Stage, data: Data | None, settings: DataSettings | None
    ) -> ImageInput:
        """Take what an earlier stage read, with what the user says now laid over it."""
        recorded = dict(before.manifest()["settings"]["images"])
        before.require_fresh()
        location = recorded.pop("location")
        resolved = resolve(DataSettings, recorded, settings)
        for share in ("search_share", "validation_share", "test_share"):
            if getattr(resolved, share) != recorded[share]:
                raise ConfigError(
                    f"{share} is {getattr(resolved, share)}, but {before.folder} divided the "
                    f"images with {recorded[share]} and trained on the rest: leave it out, or "
                    "start a new --out."
                )
        if data is not None:
            return ImageInput.of(data, resolved)
        if location.startswith(PYTHON):
            raise DataError(
                f"The images of {before.folder} were a Python object ({location}): give it again."
            )
        return ImageInput(location, resolved)

    def open_images(self, images: ImageInput, allowed: tuple[str, ...]) -> ImageStore:
        """Open the store of the images, decoding them first where that has not been done."""
        shares = {
            name: getattr(images.settings, name)
            for name in ("search_share", "validation_share", "test_share")
        }
        if sum(shares.values()) >= 1:
            raise ConfigError(
                "search_share, validation_share and test_share leave no images to train on: "
                "their sum must be below 1."
            )

        of_run = self.settings
        most = math.inf if of_run.cache_size is None else parse_bytes(of_run.cache_size)
        cache = Cache(
            Path(of_run.cache_dir) if of_run.cache_dir else self.run.folder / "data",
            most if of_run.cache else 0,
            of_run.strict,
        )
        settings = images.settings
        wish = StoreSpec(images.image_size, images.in_channels, settings.limit, settings.white)
        view = SplitAccess(shares, allowed, _given_statistics(settings, images.in_channels))

        def store() -> ImageStore:
            return open_store(
                images.source(),
                wish,
                cache,
                view,
                bar=self.console.bar,
                warn=self.console.warn,
            )

        if self.ranks.size > 1:
            if not self.ranks.is_first:
                with suppress(MasktasError):  # takes a share of the work; the first one tells
                    store()
            self.ranks.first(lambda: store() and None)
        return store()

    def batches(
        self, store: ImageStore, *splits: str, settings: TrainSettings | None = None
    ) -> Batches:
        """Return a split, or several together, as batches; to train on if there are settings."""
        return Batches(
            store.images(*splits),
            image_size=store.image_size,
            mean=store.mean,
            std=store.std,
            seed=self.seed,
            device=self.runtime.device,
            batch_size=settings.batch_size if settings else 1,
            augment=augment(settings) if settings else Augment(),
        )

    @property
    def setup(self) -> Setup:
        """Where tasks are at home."""
        return Setup(self.seed, self.runtime, self.ranks)

    def train(
        self,
        stage: Stage,
        task: Task[Any],
        settings: TrainSettings,
        batches: Batches,
        after_epoch: Callable[[int], dict[str, float]] | None = None,
    ) -> dict[str, Any]:
        """Train a task to the end and return what it took."""
        plan = LoopConfig(
            label=stage.name,
            epochs=settings.epochs,
            steps_per_epoch=batches.steps_per_epoch,
            batch_size=settings.batch_size,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            accumulate=self.settings.accumulate,
            clip_grad=settings.clip_grad,
            tensorboard=self.settings.tensorboard,
        )
        self.ranks.rows(plan.batch_size, plan.accumulate)  # refused before anything else
        processes = "process" if self.ranks.size == 1 else "processes"
        self.console.say(
            f"{plan.label}: {plan.total_steps:,} steps of {plan.batch_size} images "
            f"({self.ranks.size} {processes}, accumulate {plan.accumulate}); learning rate "
            f"{settings.lr:g} for 256 images, so {scaled_lr(settings.lr, plan.batch_size):.3g}"
        )
        machine = Environment(self.runtime, self.ranks, self.stopping, self.console, self.ledger)
        return Training(task, plan, stage.folder, machine, after_epoch=after_epoch).run()

    def finish(
        self,
        stage: Stage,
        store: ImageStore,
        cost: dict[str, Any],
        parents: dict[str, Path],
        **results: Any,
    ) -> dict[str, Any]:
        """Write a stage's manifest, drop its checkpoints, and return the manifest.

        `cost` has the `images` seen and the `flops` of their matrix products; here the ledger's
        seconds are added, and what share of this machine's best the products came to.
        """
        seconds = self.ledger.seconds
        peak = self.runtime.peak_flops() * self.ranks.size
        of_cost = {
            "seconds": round(seconds, 3),
            **cost,
            "peak_flops": peak,
            "share_of_peak": cost["flops"] / seconds / peak,
            "memory_bytes": self.runtime.memory(),
            "attempts": self.ledger.attempt,
            "processes": self.ranks.size,
            **self.runtime.describe(),
        }
        manifest = stage.finish({"images": store.summary(), "cost": of_cost, **results}, parents)
        Checkpoints(stage.folder / "checkpoints", self.console.warn).clear()
        self._unlock()
        return manifest


def _given_statistics(settings: DataSettings, in_channels: int) -> dict[str, list[float]]:
    """Return the `mean` and `std` that the user said, refusing another number of channels."""
    given = {}
    for name in ("mean", "std"):
        said = getattr(settings, name)
        if said is not None:
            given[name] = [float(number) for number in said.split(",")]
            if len(given[name]) != in_channels:
                raise ConfigError(
                    f"{name} has {len(given[name])} numbers, but the images have {in_channels} "
                    "channels: give one for each."
                )
    if min(given.get("std", [1.0])) <= 0:
        raise ConfigError("std is above 0 in every channel.")
    return given
