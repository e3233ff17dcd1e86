"""What each stage learns from, is measured on and may open: the split that is documented."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masktas.data.batches import Batches
from masktas.data.splits import SPLITS
from masktas.data.store.image_store import ImageStore
from worlds import World, manifest

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
TEACHER = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)
GIVEN = ("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")  # nothing is read to measure them
SHORT = ("--epochs", 1)


@dataclass
class Record:
    """What was done with images.

    Attributes:
        allowed: splits that a stage was allowed to open.
        opened: splits that it opened.
        reads: whether it was for training, and the splits of the rows, in order.
    """

    allowed: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)
    reads: list[tuple[bool, frozenset[str]]] = field(default_factory=list)

    def splits(self, *, trained: bool) -> set[str]:
        """The splits of all rows that were read for training, or for anything else."""
        return set().union(*(splits for was, splits in self.reads if was == trained))


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """Record every split that is opened, and every row that is read."""
    done, training = Record(), [False]
    images, read = ImageStore.images, ImageStore.read

    def recorded_images(store: ImageStore, *splits: str) -> Any:
        done.allowed |= set(store.access.allowed)
        done.opened |= set(splits)
        return images(store, *splits)

    def recorded_read(store: ImageStore, rows: Any) -> Any:
        splits = frozenset(SPLITS[number] for number in np.unique(store._splits[rows]))
        done.reads.append((training[0], splits))
        return read(store, rows)

    def recorded(read_batch: Callable[..., Any]) -> Callable[..., Any]:
        def reading(batches: Batches, *given: Any) -> Any:
            training[0] = True
            try:
                return read_batch(batches, *given)
            finally:
                training[0] = False

        return reading

    monkeypatch.setattr(ImageStore, "images", recorded_images)
    monkeypatch.setattr(ImageStore, "read", recorded_read)
    for name in ("train", "mixed"):  # of masked training, and of classifiers
        monkeypatch.setattr(Batches, name, recorded(getattr(Batches, name)))
    return done


# Of each stage: the splits it may open, those it trains on, and those it reads for anything else.
DOCUMENTED = {
    "teacher": ({"supernet"}, {"supernet"}, set()),
    "supernet": ({"supernet", "validation"}, {"supernet"}, {"validation"}),
    "search": ({"search"}, set(), {"search"}),
    "finetune": (set(SPLITS), {"supernet", "search"}, {"validation", "test"}),
    "validate": (
        {"supernet", "search", "validation"},
        {"supernet", "search"},
        {"search", "validation"},
    ),
    "validate --probe linear": (
        {"supernet", "search", "validation"},
        set(),
        {"supernet", "search", "validation"},  # a linear probe learns from frozen features
    ),
}
VALIDATED = ("--num-networks", 3, "--seeds", 1, "--bootstrap", 10, "--mask-ratio", 0.75)
FLAGS: dict[str, tuple[object, ...]] = {
    "teacher": (*TEACHER, *GIVEN, *SHORT),
    "supernet": SHORT,
    "search": ("--generations", 2),
    "finetune": SHORT,
    "validate": ("--name", "tuned", *VALIDATED),
    "validate --probe linear": VALIDATED,
}


def test_every_stage_keeps_to_its_splits(
    world: World, tmp_path: Path, masktas: Call, record: Record
) -> None:
    common = ("--out", tmp_path / "run", "--config", world.recipe, "--quiet")
    for stage, (allowed, trained, measured) in DOCUMENTED.items():
        record.__init__()  # type: ignore[misc]
        data = (world.images,) if stage == "teacher" else ()
        code, _, said = masktas(*stage.split(), *data, *common, *FLAGS[stage])
        assert code == 0, said
        assert record.allowed == allowed, stage
        assert record.opened == allowed, stage
        assert record.splits(trained=True) == trained, stage
        assert record.splits(trained=False) == measured, stage
        if stage == "finetune":  # the test split is read once, after all training
            last = max(at for at, (training, _) in enumerate(record.reads) if training)
            tests = [at for at, (_, splits) in enumerate(record.reads) if "test" in splits]
            assert min(tests) > last


# Images that change between start and resume, and between stages


@pytest.fixture
def images(world: World, tmp_path: Path) -> Path:
    """Images of one's own, to change."""
    return Path(shutil.copytree(world.images, tmp_path / "images"))


def change(images: Path) -> None:
    """Add 20 images, remove 10 and replace 5."""
    files = sorted(images.rglob("*.png"))
    for number, path in enumerate(files[:20]):
        (images / "circle" / f"new-{number}.png").write_bytes(path.read_bytes() + b"added")
    for path in files[20:30]:
        path.unlink()
    for path in files[30:35]:
        path.write_bytes(path.read_bytes() + b"changed")


def counted(said: str) -> tuple[int, int]:
    """Sum what a message says was added and removed."""
    words = said.replace(",", "").replace(";", "").replace("(", "").split()
    numbers = {"added": 0, "removed": 0}
    for number, word in itertools.pairwise(words):
        if word in numbers and number.isdigit():
            numbers[word] += int(number)
    return numbers["added"], numbers["removed"]


def test_images_that_change_before_a_resume_are_refused_by_number(
    world: World, images: Path, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    command = ("teacher", images, *TEACHER, "--out", out, "--config", world.recipe)
    assert masktas(*command, "--max-time", "0.01s")[0] == 75
    settings = (out / "teacher/settings.json").read_text()
    change(images)
    code, _, said = masktas(*command)
    assert code == 2
    assert counted(said) == (25, 15)
    assert "the images have changed since this stage was started" in said
    assert "other settings" not in said
    assert (out / "teacher/settings.json").read_text() == settings
    code, _, said = masktas(*command, "--accept-changed-images")
    assert code == 0
    assert "which was accepted" in said
    made = manifest(out / "teacher")
    assert len(made["earlier_images"]) == 1
    assert made["earlier_images"][0] != made["images"]["splits"]


def test_images_that_change_between_stages_are_refused_by_number(
    world: World, images: Path, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    common = ("--out", out, "--config", world.recipe)
    assert masktas("teacher", images, *TEACHER, *common, *SHORT)[0] == 0
    change(images)
    code, _, said = masktas("supernet", *common, *SHORT)
    assert code == 2
    assert counted(said) == (25, 15)
    assert "masktas teacher ... --overwrite" in said
    assert not (out / "supernet/settings.json").exists()
    assert masktas("supernet", *common, *SHORT, "--accept-changed-images")[0] == 0
    assert "earlier_images" not in manifest(out / "supernet")
    code, _, said = masktas("search", *common, "--generations", 2)  # the same as the supernet's
    assert code == 0, said
    code, _, said = masktas("teacher", images, *TEACHER, *common, *SHORT)
    assert code == 2
    assert "have changed since" in said


@pytest.mark.slow
def test_other_images_that_are_named_are_no_changed_ones(
    world: World, images: Path, tmp_path: Path, masktas: Call
) -> None:
    """Fine-tuning on another labelled set is a choice, and files that were touched are the same."""
    out = tmp_path / "run"
    common = ("--out", out, "--config", world.recipe)
    assert masktas("teacher", world.images, *TEACHER, *common, *SHORT)[0] == 0
    change(images)
    assert masktas("supernet", images, *common, *SHORT)[0] == 0
    for path in images.rglob("*.png"):
        path.touch()
    assert masktas("search", *common, "--generations", 2)[0] == 0
