"""Where a network is from: its run, and how often its test split has been read."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.artifacts import MANIFEST, Run, Stage
from masktas.data.splits import SHARES, SPLITS, describe_splits
from masktas.data.store.changes import digests_of
from masktas.files import append_lines, file_digest, read_json, read_lines
from masktas.stages.common.images import Started

READINGS = "readings.jsonl"  # of test splits, also by evaluations that were overwritten
NAMED = ("search", "refine", "distill", "finetune", "segment")
TESTED = ("finetune", "segment")  # stages that have read the test split once


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

    def shared(self, digests: NDArray[np.uint8]) -> dict[str, int]:
        """Return how many of some images lie in each split of the run.

        Only the test split is known, as a whole, where the run's decoded images were deleted.

        Args:
            digests: `[n, 16]`, digests of the contents of the images.
        """
        one = describe_splits(np.full(len(digests), SPLITS.index("test"), np.int8), digests)
        if one["test"]["digest"] == self.test_digest:
            return {"test": len(digests)}
        started = Started.read(self.stage)
        images = self.stage.manifest()["settings"]["images"]
        shares = {name: images[name] for name in SHARES}
        known = None if started is None else digests_of(Path(started.store), shares)
        asked = Counter(digest.tobytes() for digest in digests)
        found = {name: (asked & there).total() for name, there in (known or {}).items()}
        return {name: count for name, count in found.items() if count}

    @property
    def name(self) -> str:
        """A plain name for the network, such as `refine-main-top-2`."""
        of_stage = [self.stage.folder.name] if self.stage.name in NAMED else []
        return "-".join([self.stage.name, *of_stage, *filter(None, [self.below])])


def home_of(folder: Path) -> Home | None:
    """Return the run and stage that a network's folder belongs to; None if it lies in no run."""
    folder = folder.resolve()
    for where, below in ((folder, ""), (folder.parent, folder.name)):
        if not (where / MANIFEST).exists():
            continue
        manifest = read_json(where / MANIFEST)
        stage = manifest.get("stage") if isinstance(manifest, dict) else None
        if stage in NAMED and where.parent.name == stage:
            return Home(Run(where.parent.parent), Stage(stage, where), below)
        if stage == where.name == "teacher" and not below:
            return Home(Run(where.parent), Stage(stage, where), below)
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
        """Return how often the split with a digest has been read; a training with labels does."""
        lines = read_lines(self._path)
        mine = [one for one in lines if (one["weights"], one["split"]) == (self._weights, digest)]
        is_tested = self._home.stage.name in TESTED and not self._home.below
        return len(mine) + (is_tested and self._home.test_digest == digest)

    def note(self, digest: str, name: str) -> None:
        """Record a reading, before it is done."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"weights": self._weights, "split": digest, "evaluation": name, "time": now}
        append_lines(self._path, [json.dumps(line)])


def note_reading(
    home: Home, weights: Path, digest: str, *, name: str, warn: Callable[[str], None]
) -> int:
    """Count a reading of the test split, and warn if it is not the first.

    Args:
        home: of the network.
        weights: file of its weights.
        digest: of the contents of the split.
        name: of the evaluation.
        warn: shows a warning.

    Returns:
        How often it has been read for this network, with this reading.
    """
    counted = Readings(home, file_digest(weights))
    before = counted.before(digest)
    if before:
        times = "once" if before == 1 else f"{before} times"
        warn(
            f"The test split has been read {times} for this network already. A measurement "
            "by which networks or settings are chosen is too optimistic: use --split validation "
            "for choices."
        )
    counted.note(digest, name)
    return before + 1
