"""The run that a transfer takes teacher and supernet from, and the reference to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.artifacts import SETTINGS, SPACE, Run, Stage
from masktas.config import AllSettings, DataSettings, Settings, SupernetSettings, resolve
from masktas.errors import ArtifactError, ConfigError
from masktas.formats import format_size
from masktas.space import SearchSpace
from masktas.stages.common.images import ImageInput
from masktas.stages.common.load import require_distilled, teacher_file
from masktas.stages.common.stage import Context
from masktas.stages.teacher.sizing import mostly_enlarged, sample
from masktas.train.networks import WEIGHTS


@dataclass(frozen=True, slots=True)
class SourceRun:
    """A run with a finished supernet.

    Attributes:
        run: its folder.
        space: of its supernet.
    """

    run: Run
    space: SearchSpace

    @staticmethod
    def open(folder: Path, out: Path | None = None) -> SourceRun:
        """Open the run that `--from` names.

        Args:
            folder: the run folder.
            out: the run folder of the transfer, if there is going to be one.

        Raises:
            ConfigError: if there is no such folder, its supernet was trained with labels, or `out`
                has a teacher or supernet of its own.
            ArtifactError: if the supernet is not finished, or is not of the teacher beside it.
        """
        if not folder.is_dir():
            raise ConfigError(f"--from {folder}: there is no such run folder.")
        own = [] if out is None else [out / name for name in ("teacher", "supernet")]
        if any((one / SETTINGS).exists() for one in own):
            raise ConfigError(
                f"{out} has a teacher or a supernet of its own: choose another --out for the "
                f"transfer from {folder}."
            )
        run = Run(folder)
        if not run.supernet.finished:
            raise ArtifactError(
                f"--from {folder}: its supernet is not finished. Run the command that trains it "
                "again, or choose another run."
            )
        require_distilled(run, "a transfer")
        run.supernet.require_fresh()
        return SourceRun(run, SearchSpace.load(run.supernet.folder / SPACE))

    @property
    def parents(self) -> dict[str, Path]:
        """The files that identify its teacher and its supernet."""
        weights = self.run.supernet.folder / WEIGHTS
        return {"teacher": teacher_file(self.run), "supernet": weights}

    def winner(self, *, refined: bool) -> Stage:
        """Return the stage whose folder holds the network that the run has found.

        Args:
            refined: prefer the winner of the refinement, if there is one.

        Raises:
            ArtifactError: if it has searched nothing.
        """
        if refined and self.run.refine().finished:
            return self.run.refine()
        if not self.run.search().finished:
            raise ArtifactError(
                f"--from {self.run.folder}: it has no finished search, so no architecture to "
                "keep: leave out --keep-architecture, or search there first."
            )
        return self.run.search()

    @property
    def has_winner(self) -> bool:
        """Whether the run has found a network."""
        return self.run.search().finished

    def data_settings(self, given: DataSettings) -> DataSettings:
        """Return how the target's images are read: as the supernet saw its own, where not set.

        Its weights and its teacher belong to images of its size, channels, mean and standard
        deviation. The target's own mean and standard deviation are not measured.
        """
        manifest = self.run.supernet.manifest()
        images = manifest["images"]
        as_there = {
            "image_size": format_size(self.space.image_size),
            "in_channels": self.space.in_channels,
            "mean": images["mean"],
            "std": images["std"],
            "white": manifest["settings"]["images"].get("white"),
        }
        return resolve(DataSettings, as_there, given)

    @property
    def trained(self) -> SupernetSettings:
        """The settings of its supernet."""
        return SupernetSettings(**self.run.supernet.manifest()["settings"]["settings"])

    def settings_for_plan(self, settings: AllSettings) -> AllSettings:
        """Return settings with the space and the teacher of this run, as a plan needs them."""
        there = {"space": str(self.run.supernet.folder / SPACE), "teacher": str(self.run.folder)}
        supernet = self.trained.model_copy(update={**there, "teacher_layer": None})
        return settings.model_copy(update={"supernet": supernet})

    def require_space(self, wanted: str) -> None:
        """Raise ConfigError unless the settings name the space of the supernet."""
        other = SearchSpace.load(wanted)
        if other.replace(name="", num_classes=None) != self.space.replace(
            name="", num_classes=None
        ):
            raise ConfigError(
                f"The settings name space {other.name}, but the supernet of {self.run.folder} is "
                f"of space {self.space.name}: leave `space` out, or transfer from another run."
            )


def refer(context: Context, source: SourceRun, images: ImageInput) -> dict[str, Any]:
    """Make `transfer/`: the reference to the source, and the division of the target's images.

    Nothing is copied: the manifest names teacher and supernet as parents, by place and digest.
    """
    stage = context.run.transfer
    context.keep_precision(stage)
    images.require_fit(source.space.largest, f"the supernet of {source.run.folder}")
    _warn_of_enlarging(context, images)
    store = context.open_images(images, allowed=())
    with context.stage(
        stage, Settings(), parents=source.parents, images=images, store=store
    ) as claimed:
        if claimed.todo:
            about = {"source": str(source.run.folder.resolve()), "space": source.space.name}
            return claimed.finish(store, {"images": 0, "flops": 0}, lambda: about)
        context.ranks.first(lambda: stage.move_parents(source.parents))
        return stage.manifest()


def _warn_of_enlarging(context: Context, images: ImageInput) -> None:
    """Warn, before images are decoded, if most are enlarged by more than a factor of 2."""
    if context.run.transfer.finished:
        return
    size = mostly_enlarged(images.image_size, sample(images.source()).sizes)
    if size is not None:
        height, width = images.image_size
        context.console.warn(
            f"Images of {size[0]} x {size[1]} pixels are enlarged to {height} x {width}, the "
            "images of the supernet: they show no more than before, and the network costs as much "
            "as for large ones. A supernet for images of their size would be cheaper."
        )
