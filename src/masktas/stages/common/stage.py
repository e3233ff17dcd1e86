"""What every stage works with: the run, the images, the machine, the claim on its folder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from masktas import launch
from masktas.artifacts import SETTINGS, Run, Stage
from masktas.config import DataSettings, RuntimeSettings, Settings, TrainSettings, resolve
from masktas.console import Console
from masktas.data.batches import Augment, Batches
from masktas.data.sources.base import IndexedSource
from masktas.data.sources.files import FileSource
from masktas.data.splits import SHARES
from masktas.data.store.build import Cache
from masktas.data.store.image_store import Images, ImageStore, open_store
from masktas.errors import ArtifactError, ConfigError, DataError, MasktasError
from masktas.files import file_digest, read_json
from masktas.formats import format_size, parse_bytes, shown
from masktas.nn.compiled import MOST_SHAPES, CompiledBlocks
from masktas.space import SearchSpace
from masktas.stages.common.claimed import ClaimedStage, drop_checkpoints
from masktas.stages.common.images import (
    PYTHON,
    SELECTION,
    Data,
    Divided,
    ImageInput,
    Started,
    changed_between_stages,
    changed_on_resume,
    changes_since,
    changes_since_stage,
    fetch,
)
from masktas.stages.common.tasks import Setup, augment
from masktas.stopping import Stopping
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime
from masktas.train.tracking import require_tracker


class Context:
    """What a stage works with: run folder, images, device, processes, console.

    Args:
        out: the run folder.
        runtime: seed, device, precision.
        console: where progress is shown.
        overwrite: start stages afresh instead of resuming them.
        accept_changed_images: continue where images have changed since an earlier stage, or since
            the stage was started.
    """

    def __init__(
        self,
        out: str | Path,
        runtime: RuntimeSettings | None,
        console: Console | None,
        *,
        overwrite: bool = False,
        accept_changed_images: bool = False,
    ) -> None:
        self.run = Run(Path(out))
        self.settings = runtime or RuntimeSettings()
        _require_folder(self.run.folder, "--out")
        if self.settings.cache_dir:
            _require_folder(Path(self.settings.cache_dir), "--cache-dir")
        require_tracker(self.settings.track)
        self.ranks = Ranks.join()
        self.runtime = Runtime.choose(
            self.settings.device,
            self.settings.precision,
            recompute=self.settings.recompute,
            ranks=self.ranks,
        )
        self.runtime.keep_memory()
        self.console = console or Console()
        if self.runtime.why:
            self.console.say(self.runtime.why, once=True)
        elif self.ranks.is_first and (warning := self.runtime.slow_bf16()):
            self.console.warn(warning, once=True)
        self.stopping = Stopping(self.settings.max_time)
        self.overwrite = overwrite
        self.accept_changed_images = accept_changed_images

    @property
    def seed(self) -> int:
        """Seed of every random number."""
        return self.settings.seed

    @property
    def setup(self) -> Setup:
        """Seed, device and ranks for a training task."""
        return Setup(self.seed, self.runtime, self.ranks)

    def keep_precision(self, stage: Stage) -> None:
        """Take the precision that a stage was started in, if it is kept and `auto` was asked for.

        So it can be resumed on another machine. Call it before anything depends on the precision.
        """
        if self.settings.precision != "auto":
            return
        started = (self.ranks.first(lambda: self._started_with(stage)) or {}).get("precision")
        if started not in ("fp32", "bf16") or started == self.runtime.precision:
            return
        self.console.say(
            f"{stage.folder} was started in {started} and stays in it, although "
            f"{self.runtime.precision} would be chosen here."
        )
        self.runtime = replace(self.runtime, bf16=started == "bf16")

    def compile_blocks(self, stage: Stage, space: SearchSpace | None = None) -> None:
        """Have the stage's training steps compile blocks, as `--compile` says.

        With `auto` it is kept as the stage was started, if it is kept, or measured. Call it after
        `keep_precision`.

        Args:
            stage: which trains networks.
            space: of a supernet, whose blocks may have too many shapes to compile.

        Raises:
            ConfigError: if they have, and compiled blocks were asked for.
        """
        asked, why = self.settings.compile, ""
        on = asked == "on"
        if asked == "auto":
            started = self.ranks.first(lambda: self._started_with(stage))
            if started is not None:
                on = started.get("compile") == "on"
            else:
                on, why = self.ranks.first(self.runtime.compiled_is_faster)
        shapes = space.num_block_shapes if space else 0
        if on and shapes > MOST_SHAPES:
            sentence = (
                f"The blocks of space {space.name if space else ''} have {shapes} shapes, and at "
                f"most {MOST_SHAPES} are compiled"
            )
            if asked == "on":
                raise ConfigError(f"{sentence}: leave out --compile on.")
            on, why = False, f"{sentence}: they run without that."
        if why:
            self.console.say(why, once=True)
        self.runtime = replace(self.runtime, blocks=CompiledBlocks() if on else None)

    def _started_with(self, stage: Stage) -> dict[str, Any] | None:
        """Return the claim of a stage whose results are kept; None without."""
        if self._overwrites(stage) or not stage.resumable:
            return None
        claim = read_json(stage.folder / SETTINGS)
        return claim if isinstance(claim, dict) else None

    def _overwrites(self, stage: Stage) -> bool:
        """Return whether to start afresh; a job that torchrun restarts resumes its fresh start."""
        again = launch.restarted() and stage.overwritten_by() == launch.job()
        return self.overwrite and not again

    @contextmanager
    def stage(
        self,
        stage: Stage,
        settings: Settings,
        *,
        parents: dict[str, Path],
        images: ImageInput,
        store: Divided,
        more: dict[str, Any] | None = None,
    ) -> Iterator[ClaimedStage]:
        """Claim a stage's folder and keep other processes out of it within the `with` block.

        Args:
            stage: the folder.
            settings: of the stage.
            parents: the files it is made from, by name; changed files count as changed settings.
            images: which are read.
            store: the opened images, which must not have changed.
            more: what else the claim records.

        Raises:
            ArtifactError: if the folder holds results of other settings, another process is at
                work there, or it is that of another run.
            DataError: if the images have changed, and that was not accepted.
        """
        if not stage.folder.is_relative_to(self.run.folder):
            raise ArtifactError(
                f"{self.run.folder} uses the {stage.name} of another run, {stage.folder.parent}, "
                "and has none of its own: choose another --out."
            )
        if stage.finished and not self.overwrite:
            stage.require_fresh()
        recorded = {
            "parents": {name: file_digest(path) for name, path in parents.items()},
            "settings": settings.model_dump(mode="json"),
            "seed": self.seed,
            "precision": self.runtime.precision,
            # as claims without it have it: results of earlier versions are resumed
            **({"compile": "on"} if self.runtime.blocks else {}),
            # last: a refusal names the first difference, which should be a cause and no effect
            "images": images.to_dict(),
            **(more or {}),
        }
        with ExitStack() as held:
            todo = self.ranks.first(
                lambda: self._claim(stage, recorded, settings.defaults(), images, store, held)
            )
            if not todo:
                self.console.say(f"{stage.folder} is finished: nothing to do.")
            yield ClaimedStage(self, stage, parents, todo=todo)

    def _claim(
        self,
        stage: Stage,
        recorded: dict[str, Any],
        defaults: dict[str, Any],
        images: ImageInput,
        store: Divided,
        held: ExitStack,
    ) -> bool:
        """Lock and claim a folder; return whether there is anything to do."""
        held.callback(os.close, stage.lock())  # before anything is dropped
        stage.sweep()
        overwrite = self._overwrites(stage)
        resumed = stage.resumable and not overwrite
        before = Started.read(stage) if resumed else None
        self._require_unchanged(stage, recorded["images"], images.before, store, before, resumed)
        todo = stage.begin(recorded, overwrite=overwrite, defaults=defaults)
        if todo:
            self._note_start(stage, store, before)
        if self.overwrite:
            stage.note_overwritten(launch.job())
        if not todo:  # a process may have been killed after its manifest
            drop_checkpoints(stage, self.console)
        return todo

    def _require_unchanged(
        self,
        stage: Stage,
        recorded: dict[str, Any],
        parent: Stage | None,
        store: Divided,
        before: Started | None,
        resumed: bool,
    ) -> None:
        """Refuse images that have changed, before anything is written or deleted."""
        if not resumed and parent is not None:
            changes = changes_since_stage(parent, store)
            self._accept(changes, changed_between_stages(parent, changes))
        # other settings of the images are a cause that `Stage.begin` names
        elif before is not None and read_json(stage.folder / SETTINGS).get("images") == recorded:
            changes = changes_since(before, store)
            self._accept(changes, changed_on_resume(stage, changes))

    def _note_start(self, stage: Stage, store: Divided, before: Started | None) -> None:
        """Record the images and versions that a stage starts with, or resumes with."""
        now = Started.now(store)
        if before is None:
            now.write(stage)
            return
        if versions := before.changed_versions(now):
            self.console.warn(
                f"{stage.folder} was started with other versions ({versions}): its results may "
                "differ from those of either."
            )
        if before.splits != now.splits:
            now.with_earlier(before).write(stage)

    def _accept(self, changes: str, error: DataError) -> None:
        """Raise the error about changed images, or warn of them if the user accepts them."""
        if not changes:
            return
        if not self.accept_changed_images:
            raise error
        self.console.warn(f"The images have changed, which was accepted ({changes}).")

    def images_given(
        self,
        data: Data,
        settings: DataSettings | None,
        *,
        image_size: tuple[int, int],
        in_channels: int,
    ) -> ImageInput:
        """Return the user's images; size and channels apply where the settings have none."""
        sizes = {"image_size": format_size(image_size), "in_channels": in_channels}
        return ImageInput.of(data, resolve(DataSettings, sizes, settings))

    def images_recorded(
        self, before: Stage, data: Data | None, settings: DataSettings | None
    ) -> ImageInput:
        """Return the images that an earlier stage read, with the user's settings over its own."""
        then = before.manifest()["settings"]["images"]
        before.require_fresh()
        location, recorded = then["location"], {key: then[key] for key in DataSettings.model_fields}
        resolved = resolve(DataSettings, recorded, settings)
        for share in SHARES:
            if getattr(resolved, share) != recorded[share]:
                raise ConfigError(
                    f"{share} is {getattr(resolved, share)}, but {before.folder} divided the "
                    f"images with {recorded[share]}, and one run divides them once: leave it "
                    "out, or start a new --out."
                )
        if data is None and location.startswith(PYTHON):
            raise DataError(
                f"The images of {before.folder} were a Python object ({location}): give it again."
            )
        images = ImageInput(location, resolved) if data is None else ImageInput.of(data, resolved)
        now = images.to_dict()
        same = all(now[key] == then[key] for key in SELECTION)
        return replace(images, before=before) if same else images

    def fetch(self, images: ImageInput) -> None:
        """Refuse images that cannot be opened; download them before if that was asked for."""
        fetch(images, self.settings, self.ranks)

    def open_images(self, images: ImageInput, allowed: tuple[str, ...]) -> ImageStore:
        """Open the store of the images, decoding them first where that has not been done."""
        spec, access, cache = images.spec(), images.access(allowed), self._cache()

        def open_() -> ImageStore:
            console, source = self.console, images.source()
            if isinstance(source, IndexedSource) and source.about and images.before is None:
                console.say(source.about)
            if isinstance(source, FileSource) and source.listing.passed_by:
                left_out = ", ".join(shown(folder) for folder in source.listing.passed_by[:3])
                console.warn(
                    f"{len(source.listing.passed_by)} folders in {source.location} are written by "
                    f"masktas and were not read: {left_out}."
                )
            return open_store(source, spec, cache, access, bar=console.bar, warn=console.warn)

        if self.ranks.size > 1:
            if not self.ranks.is_first:
                with suppress(MasktasError):  # decodes its share; the first process reports errors
                    open_()
            self.ranks.first(lambda: open_() and None)
        return open_()

    def _cache(self) -> Cache:
        settings = self.settings
        most = math.inf if settings.cache_size is None else parse_bytes(settings.cache_size)
        folder = Path(settings.cache_dir) if settings.cache_dir else self.run.folder / "data"
        return Cache(folder, most if settings.cache else 0, settings.strict)

    def batches(
        self,
        store: ImageStore,
        *splits: str,
        settings: TrainSettings | None = None,
        seed: int | None = None,
    ) -> Batches:
        """Return batches of one or several splits; augmented for training if there are settings.

        `seed` draws order and crops, by default that of the stage.
        """
        return self.batches_of(store.images(*splits), store, settings=settings, seed=seed)

    def batches_of(
        self,
        images: Images,
        store: ImageStore,
        *,
        settings: TrainSettings | None = None,
        seed: int | None = None,
    ) -> Batches:
        """Return batches of some images of a store; their seed is that of the stage by default."""
        return Batches(
            images,
            image_size=store.image_size,
            mean=store.mean,
            std=store.std,
            seed=self.seed if seed is None else seed,
            device=self.runtime.device,
            batch_size=settings.batch_size if settings else 1,
            augment=augment(settings) if settings else Augment(),
        )


def _require_folder(folder: Path, flag: str) -> None:
    """Raise ConfigError if a file is where a folder is to be, or above it."""
    for path in (folder, *folder.parents):
        if os.path.exists(path):
            if not os.path.isdir(path):
                raise ConfigError(f"{flag} {folder}: {path} is a file: choose another folder.")
            return
