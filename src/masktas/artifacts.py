"""The run folder: what each stage leaves behind.

A stage is finished when its folder holds a `manifest.json`; until then `settings.json` records
its settings, so that the same command resumes it and a different one is refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from masktas.errors import ArtifactError, ConfigError
from masktas.files import file_digest, read_json, sync_folder, write_json, write_text

SCHEMA = 1
MANIFEST = "manifest.json"
SETTINGS = "settings.json"
STARTED = "started.json"  # with which images and versions; compared when the stage is resumed
LOCK = ".lock"
OVERWRITTEN = ".overwritten"  # by which job: torchrun may start it again
DISCARDED = ".discarded"  # while --overwrite deletes; the next start deletes what remains
METRICS = "metrics.jsonl"  # losses: identical for every run of a seed
LEDGER = "ledger.jsonl"  # when, and how fast: of every attempt
ARCHITECTURE = "architecture.json"
INPUT = "input.json"  # of a network: how images become its input, and its classes
SEGMENTER = "segmenter.json"  # of a segmenter: its decoder and classes
SPACE = "space.json"
TEACHER = "teacher.json"  # of a pretrained teacher
CLAIM = (SETTINGS, STARTED, LOCK, OVERWRITTEN)  # the files of a stage that has made nothing yet
HISTORY = "history.jsonl"  # of a search: every rated candidate
ROUNDS = "rounds.jsonl"  # of a refinement: every finished round
# Any of them shows that a stage has worked in a folder: --overwrite deletes no folder without one.
MADE = (SETTINGS, MANIFEST, METRICS, LEDGER, HISTORY, ROUNDS, ARCHITECTURE, SPACE, TEACHER)
# kinds of stages of which a run may hold several, in the order of the pipeline
NAMED = ("search", "refine", "distill", "finetune", "segment", "validate", "evaluate")
OUTCOME = {  # the key of a manifest that holds what the stage is for
    "transfer": "source", "search": "winner", "refine": "winner", "finetune": "test",
    "validate": "verdict", "evaluate": "outcome",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage's folder within a run.

    Attributes:
        name: `teacher`, `supernet`, `transfer`, `search`, `finetune`...
        folder: folder of its files.
    """

    name: str
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether the stage has been completed."""
        return (self.folder / MANIFEST).exists()

    @property
    def begun(self) -> bool:
        """Whether the stage has been started, finished or not."""
        return (self.folder / SETTINGS).exists()

    def begin(
        self,
        settings: dict[str, Any],
        *,
        overwrite: bool = False,
        defaults: Mapping[str, Any] | None = None,
    ) -> bool:
        """Claim the folder for these settings; return False if the stage is finished.

        Args:
            settings: all that the result depends on.
            overwrite: give up the folder's earlier content.
            defaults: what an earlier version, which did not have these of `settings["settings"]`,
                is taken to have used.

        Raises:
            ArtifactError: if the folder holds a complete or partial result of other settings.
        """
        recorded = self.folder / SETTINGS
        if overwrite and any((self.folder / name).exists() for name in MADE):
            write_text(self.folder / DISCARDED, "")  # from here on the old content is gone
        self._discard()
        if recorded.exists() and self._anything_made():
            there = read_json(recorded)
            settings = json.loads(json.dumps(settings))
            if isinstance(known := there.get("settings"), dict):
                there["settings"] = {**(defaults or {}), **known}
            if there != settings:
                raise ArtifactError(
                    f"{self.folder} was made with other settings ({_difference(there, settings)}). "
                    "Use those settings to resume, choose another --out (or --name), or add "
                    "--overwrite to start again."
                )
        elif self.finished:
            raise ArtifactError(f"{recorded} is missing: use --overwrite to run the stage again.")
        else:
            write_json(recorded, settings)
        return not self.finished

    @property
    def resumable(self) -> bool:
        """Whether there are results, complete or partial, that `begin` would keep."""
        given_up = (self.folder / DISCARDED).exists()
        return self.begun and not given_up and self._anything_made()

    def _discard(self) -> None:
        """Delete the content that --overwrite has given up, also after a kill in the middle.

        The mark is made before the first and removed after the last file, so a half-deleted stage
        is never resumed. Links are removed, not what they point to.
        """
        mark = self.folder / DISCARDED
        if not mark.exists():
            return
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (LOCK, DISCARDED):  # this process holds the lock
                path.unlink()
        sync_folder(self.folder)
        mark.unlink()

    def _anything_made(self) -> bool:
        """Return whether the folder holds more than a claim; a claim alone is ignored."""
        return any(path.name not in CLAIM for path in self.folder.iterdir())

    def sweep(self) -> None:
        """Remove temporary files of killed processes; the caller holds the lock."""
        for path in self.folder.rglob(".*.tmp"):
            path.unlink()

    def overwritten_by(self) -> str | None:
        """Return the job that has begun this stage with --overwrite, if one has."""
        path = self.folder / OVERWRITTEN
        return path.read_text(encoding="utf-8") if path.exists() else None

    def note_overwritten(self, job: str) -> None:
        """Note the job that has begun this stage with --overwrite."""
        write_text(self.folder / OVERWRITTEN, job)

    def lock(self) -> int:
        """Keep other processes out of the folder while the returned file descriptor is open.

        Raises:
            ArtifactError: if another process uses the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise ArtifactError(
                    f"{self.folder}: this file system has no locks ({error.strerror}): choose an "
                    "--out on one that has them, such as a local disk."
                ) from None
            raise ArtifactError(
                f"{self.folder}: another masktas process is using it. Wait for it, or choose "
                "another --out (or --name)."
            ) from None
        return descriptor

    def require_fresh(self) -> None:
        """Raise ArtifactError if what this finished stage was made from has changed since."""
        for name, parent in self.manifest()["parents"].items():
            path = self.parent(parent["file"])
            if path.exists() and file_digest(path) != parent["sha256"]:
                raise ArtifactError(
                    f"{self.folder} was made from another {name} than the one in the run now. "
                    f"Run it again with `masktas {self.name} ... --overwrite`, or use another "
                    "--out."
                )

    def parent(self, name: str) -> Path:
        """Return the path of a file that the manifest names, which others may have written.

        Raises:
            ArtifactError: if it is a device or a pipe, which could be read for ever.
        """
        path = Path(os.path.normpath(self.folder / name))  # as it was recorded, whatever links do
        if path.exists() and not path.is_file():
            raise ArtifactError(
                f"{self.folder / MANIFEST}: it names {name[:200]!r} as a parent, which is not a "
                "regular file. Run the stage again with --overwrite."
            )
        return path

    def finish(self, content: dict[str, Any], parents: dict[str, Path]) -> dict[str, Any]:
        """Write the manifest, as the last file: results, parents, settings and versions."""
        manifest = {
            "schema": SCHEMA,
            "stage": self.name,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "settings": read_json(self.folder / SETTINGS),
            "parents": {
                name: {"file": os.path.relpath(path, self.folder), "sha256": file_digest(path)}
                for name, path in parents.items()
            },
            "versions": versions(),
            **content,
        }
        write_json(self.folder / MANIFEST, manifest)
        return manifest

    def move_parents(self, parents: dict[str, Path]) -> None:
        """Record where the files that this finished stage was made from are now."""
        manifest = self.manifest()
        places = {name: os.path.relpath(path, self.folder) for name, path in parents.items()}
        if places == {name: one["file"] for name, one in manifest["parents"].items()}:
            return
        for name, place in places.items():
            manifest["parents"][name]["file"] = place
        write_json(self.folder / MANIFEST, manifest)

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            ArtifactError: if the stage is not finished, naming the command to run.
        """
        if not self.finished:
            state = "not finished" if self.begun else "missing"
            raise ArtifactError(
                f"{self.folder}: the {self.name} stage is {state}. Run `masktas {self.name}` with "
                "the same --out first."
            )
        manifest = read_json(self.folder / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise ArtifactError(f"{self.folder / MANIFEST}: written by another version of masktas.")
        for key in ("settings", "cost", "images", "parents", OUTCOME.get(self.name, "versions")):
            if key not in manifest:
                raise ArtifactError(
                    f"{self.folder / MANIFEST}: damaged, {key!r} is missing. Run the stage "
                    "again with --overwrite."
                )
        return manifest


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder: one sub-folder for each stage, and the report.

    A folder made by `masktas transfer` has no teacher and no supernet of its own: its `transfer/`
    names those of another run, which is its source.
    """

    folder: Path

    @property
    def teacher(self) -> Stage:
        """The masked autoencoder; that of the source, if the run is a transfer."""
        return Stage("teacher", self._folder_of("teacher"))

    @property
    def supernet(self) -> Stage:
        """The store of shared weights; that of the source, if the run is a transfer."""
        return Stage("supernet", self._folder_of("supernet"))

    @property
    def transfer(self) -> Stage:
        """The reference to the teacher and the supernet of another run."""
        return Stage("transfer", self.folder / "transfer")

    @property
    def is_transfer(self) -> bool:
        """Whether teacher and supernet are those of another run."""
        return self.transfer.begun

    @property
    def division(self) -> Stage:
        """The stage whose division of the images into splits all later stages keep."""
        return self.transfer if self.is_transfer else self.supernet

    @property
    def has_source(self) -> bool:
        """Whether teacher and supernet are where the run says: a transfer's may have been moved."""
        with suppress(ArtifactError):
            return bool(self._folder_of("teacher") and self._folder_of("supernet"))
        return False

    def _folder_of(self, name: str) -> Path:
        """Return the folder of the teacher or the supernet.

        Raises:
            ArtifactError: if it is in another run that is not where it was, or if the transfer
                is not finished.
        """
        if not self.is_transfer:
            return self.folder / name
        parents = self.transfer.manifest()["parents"]
        folder = self.transfer.parent(parents[name]["file"]).parent
        if not (folder / MANIFEST).exists():
            raise ArtifactError(
                f"{self.folder} uses the {name} of another run, which is not at "
                f"{folder.parent} any more: move it back, or run `masktas transfer ... "
                f"--out {self.folder}` with its new folder as --from."
            )
        return folder

    def search(self, name: str = "main") -> Stage:
        """One search, by name."""
        return Stage("search", self.folder / "search" / _plain(name))

    def refine(self, name: str = "main") -> Stage:
        """The refinement of a search, by the search's name."""
        return Stage("refine", self.folder / "refine" / _plain(name))

    def finetune(self, name: str = "main") -> Stage:
        """One fine-tuned network, by name."""
        return Stage("finetune", self.folder / "finetune" / _plain(name))

    def segmented(self, name: str = "main") -> Stage:
        """One segmentation network, by name."""
        return Stage("segment", self.folder / "segment" / _plain(name))

    def distilled(self, name: str = "main") -> Stage:
        """One network that was distilled alone, by name."""
        return Stage("distill", self.folder / "distill" / _plain(name))

    def validated(self, name: str = "main") -> Stage:
        """One comparison of ratings with accuracy, by name."""
        return Stage("validate", self.folder / "validate" / _plain(name))

    def evaluated(self, name: str = "main") -> Stage:
        """One evaluation of a network with labels, by name."""
        return Stage("evaluate", self.folder / "evaluate" / _plain(name))

    def exported(self, name: str = "main") -> Path:
        """Folder of one exported network, by name."""
        return self.folder / "export" / _plain(name)

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    def named(self, kind: str) -> list[Stage]:
        """Return the finished stages of a kind that has names, such as `search`, sorted by name."""
        folders = sorted((self.folder / kind).glob(f"*/{MANIFEST}"))
        return [Stage(kind, path.parent) for path in folders]

    def stages(self) -> list[Stage]:
        """Return all finished stages of this folder in the order of the pipeline."""
        own = (self.transfer,) if self.is_transfer else (self.teacher, self.supernet)
        first = [stage for stage in own if stage.finished]
        return first + [stage for kind in NAMED for stage in self.named(kind)]

    def unfinished(self) -> list[Stage]:
        """Return the stages of this folder that have begun, running or not, and are not finished.

        In the order of the pipeline.
        """
        begun = [Stage(name, self.folder / name) for name in ("transfer", "teacher", "supernet")]
        for kind in NAMED:
            paths = sorted((self.folder / kind).glob(f"*/{SETTINGS}"))
            begun += [Stage(kind, path.parent) for path in paths]
        return [one for one in begun if (one.folder / SETTINGS).exists() and not one.finished]


def _plain(name: str) -> str:
    """Return the name, or raise ConfigError if it is not a plain folder name."""
    if not re.fullmatch(r"[^/\\\0.][^/\\\0]{0,99}", name) or not name.isprintable():
        raise ConfigError(
            f"--name {name!r}: give a plain word without slashes, control characters or a dot in "
            "front, at most 100 characters."
        )
    return name


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("masktas", "torch", "torchvision", "timm", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"  # run from source, not installed


def _difference(there: Any, here: Any, at: str = "") -> str:
    """Name the first setting that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            if key not in there or key not in here or there[key] != here[key]:
                return _difference(there.get(key), here.get(key), f"{at}.{key}" if at else key)
    return f"{at}: {there!r} there, {here!r} now"
