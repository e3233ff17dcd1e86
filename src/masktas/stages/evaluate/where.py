"""Where a network is from: its run, and how often its test split has been read."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masktas.artifacts import MANIFEST, Run, Stage
from masktas.files import append_lines, read_lines

READINGS = "readings.jsonl"  # of test splits, also by evaluations that were overwritten
NAMED = ("search", "refine", "distill", "finetune")


@dataclass(frozen=True, slots=True)
class Home:
    """The stage of a run that wrote a network.

    Attributes:
        run: the run.
        stage: the finished stage.
        below: name of the network's folder within that of the stage, such as `top-2`; may be empty.
    """

    run: Run
    stage: Stage
    below: str

    @property
    def folder(self) -> Path:
        """Folder of the network."""
        return self.stage.folder / self.below

    @property
    def test_digest(self) -> str:
        """Digest of the contents of the run's test split."""
        images: dict[str, Any] = self.stage.manifest()["images"]
        digest: str = images["splits"]["test"]["digest"]
        return digest

    @property
    def name(self) -> str:
        """A plain name for the network, such as `refine-main-top-2`."""
        of_stage = [self.stage.folder.name] if self.stage.name in NAMED else []
        return "-".join([self.stage.name, *of_stage, *filter(None, [self.below])])


def home_of(folder: Path) -> Home | None:
    """Return the run and stage that a network's folder belongs to; None if it lies in no run."""
    folder = folder.resolve()
    for where, below in ((folder, ""), (folder.parent, folder.name)):
        if where.parent.name in NAMED:
            stage, run = Stage(where.parent.name, where), Run(where.parent.parent)
        else:
            stage, run = Stage("teacher", where), Run(where.parent)
        is_teacher = where.name == "teacher" and not below
        if (where / MANIFEST).exists() and (stage.name in NAMED or is_teacher):
            return Home(run, stage, below)
    return None


class Readings:
    """How often a test split was read to evaluate one network: once, unless the user insists.

    Args:
        home: of the network.
        weights: SHA-256 of its weights.
    """

    def __init__(self, home: Home, weights: str) -> None:
        self._home, self._weights = home, weights
        self._path = home.run.folder / "evaluate" / READINGS

    def before(self, digest: str) -> int:
        """Return how often the split with a digest has been read; fine-tuning reads it once."""
        lines = read_lines(self._path)
        mine = [one for one in lines if (one["weights"], one["split"]) == (self._weights, digest)]
        is_tested = self._home.stage.name == "finetune" and not self._home.below
        return len(mine) + (is_tested and self._home.test_digest == digest)

    def note(self, digest: str, name: str) -> None:
        """Record a reading, before it is done."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"weights": self._weights, "split": digest, "evaluation": name, "time": now}
        append_lines(self._path, [json.dumps(line)])
