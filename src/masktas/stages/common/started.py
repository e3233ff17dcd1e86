"""The images and versions that a stage was started with, to notice that they have changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from masktas.artifacts import STARTED, Stage, read_json, versions, write_json
from masktas.data.store.changes import Described, describe_changes
from masktas.data.store.image_store import ImageStore
from masktas.errors import ArtifactError, DataError

COMPARED = ("masktas", "torch")  # packages whose change on resume is worth a warning
HINT = "a changed image counts as one added and one removed"


@dataclass(frozen=True, slots=True)
class Started:
    """What `started.json` holds.

    Attributes:
        store: folder of the decoded images.
        splits: number of images of each split, and a digest of their contents.
        versions: of the packages that the result depends on most.
        earlier: the splits that the stage learned from before they changed, oldest first.
    """

    store: str
    splits: Described
    versions: dict[str, str]
    earlier: list[Described] = field(default_factory=list)

    @staticmethod
    def now(store: ImageStore) -> Started:
        """Return what a stage that is started now has to record."""
        found = versions()
        kept = {name: found[name] for name in COMPARED}
        return Started(str(store.folder.resolve()), store.splits, kept)

    @staticmethod
    def read(stage: Stage) -> Started | None:
        """Return what a stage has recorded; None if nothing.

        Raises:
            ArtifactError: if the record is damaged.
        """
        path = stage.folder / STARTED
        if not path.exists():
            return None
        try:
            return Started(**read_json(path))
        except TypeError:
            raise ArtifactError(
                f"{path}: damaged. Start the stage again with --overwrite."
            ) from None

    def write(self, stage: Stage) -> None:
        """Record it in the stage's folder."""
        write_json(stage.folder / STARTED, asdict(self))

    def with_earlier(self, before: Started) -> Started:
        """Return it with the images that the stage learned from before."""
        return Started(self.store, self.splits, self.versions, [*before.earlier, before.splits])

    def changed_versions(self, now: Started) -> str:
        """Name the packages that are of another version now; empty if none."""
        return ", ".join(
            f"{name} {there} then, {now.versions[name]} now"
            for name, there in self.versions.items()
            if there != now.versions.get(name)
        )


def changes_since(before: Started, store: ImageStore) -> str:
    """Say how the images have changed since a stage was started; empty if they have not."""
    folders = (Path(before.store), store.folder)
    return describe_changes(before.splits, store.splits, folders, store.access.shares)


def changes_since_stage(stage: Stage, store: ImageStore) -> str:
    """Say how the images have changed since a stage was finished; empty if they have not."""
    started = Started.read(stage)
    folders = (None if started is None else Path(started.store), store.folder)
    there = stage.manifest()["images"]["splits"]
    return describe_changes(there, store.splits, folders, store.access.shares)


def changed_on_resume(stage: Stage, changes: str) -> DataError:
    """Return the error for images that have changed since the stage itself was started."""
    return DataError(
        f"{stage.folder}: the images have changed since this stage was started ({changes}; {HINT})."
        " Restore them, choose another --out (or --name), start again with --overwrite, or add "
        "--accept-changed-images to continue with them."
    )


def changed_between_stages(before: Stage, changes: str) -> DataError:
    """Return the error for images that have changed since an earlier stage."""
    return DataError(
        f"The images have changed since {before.folder} was made from them ({changes}; {HINT}). "
        f"Restore them, choose another --out, run `masktas {before.name} ... --overwrite`, or add "
        "--accept-changed-images to use them as they are now."
    )
