"""A stage's folder is claimed within a `with` block: locked, resumed, finished, refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from masktas.artifacts import read_json
from masktas.config import DataSettings, SearchSettings
from masktas.console import Console
from masktas.errors import ArtifactError
from masktas.stages.common.images import ImageInput
from masktas.stages.common.stage import ClaimedStage, Context

IMAGES = ImageInput("somewhere", DataSettings(image_size=16, in_channels=3))
LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


class Store:
    """As much of a store as a manifest needs."""

    def summary(self) -> dict[str, Any]:
        return {"location": "somewhere"}


def context(out: Path, *, overwrite: bool = False) -> Context:
    return Context(out, None, Console(quiet=True), overwrite=overwrite)


def claim(of: Context, parent: Path, **settings: Any) -> Any:
    parents, more = {"supernet": parent}, {"rated_by": "a key"}
    return of.stage(
        of.run.search(), SearchSettings(**settings), parents=parents, images=IMAGES, more=more
    )


def finish(stage: ClaimedStage) -> dict[str, Any]:
    return stage.finish(Store(), {"images": 2, "flops": 3}, lambda: {"winner": 1})  # type: ignore[arg-type]


def is_locked(folder: Path) -> bool:
    done = subprocess.run([sys.executable, "-c", LOCK, str(folder / ".lock")], capture_output=True)
    return done.returncode != 0


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_text("weights")
    return path


def test_a_folder_is_locked_until_its_block_ends(tmp_path: Path, parent: Path) -> None:
    with claim(context(tmp_path), parent) as stage:
        assert stage.todo
        assert is_locked(stage.folder)
        finish(stage)
        assert is_locked(stage.folder)
    assert not is_locked(stage.folder)


def test_an_error_unlocks_the_folder_and_leaves_it_to_be_resumed(
    tmp_path: Path, parent: Path
) -> None:
    def fail() -> None:
        with claim(context(tmp_path), parent) as stage:
            (stage.folder / "history.jsonl").write_text("{}\n")
            assert is_locked(stage.folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not is_locked(tmp_path / "search/main")
    with claim(context(tmp_path), parent) as stage:
        assert stage.todo
        assert (stage.folder / "history.jsonl").exists()


def test_a_finished_stage_is_not_made_again(tmp_path: Path, parent: Path) -> None:
    with claim(context(tmp_path), parent) as stage:
        made = finish(stage)
    assert made["winner"] == 1
    assert made["cost"]["images"] == 2
    assert made["images"] == {"location": "somewhere"}
    assert made["parents"]["supernet"]["file"] == "../../weights.safetensors"
    (stage.folder / "checkpoints").mkdir()
    (stage.folder / "checkpoints/step-4.safetensors").write_text("of a process killed too late")
    with claim(context(tmp_path), parent) as stage:
        assert not stage.todo
        assert stage.manifest() == made
        assert is_locked(stage.folder)
    assert not list(stage.folder.glob("checkpoints/*"))


def test_the_claim_records_what_the_stage_is_made_from(tmp_path: Path, parent: Path) -> None:
    with claim(context(tmp_path), parent, population=7) as stage:
        recorded = read_json(stage.folder / "settings.json")
    assert list(recorded) == ["parents", "settings", "seed", "precision", "images", "rated_by"]
    assert recorded["settings"]["population"] == 7
    assert recorded["images"]["location"] == "somewhere"


def test_other_settings_and_changed_parents_are_refused(tmp_path: Path, parent: Path) -> None:
    with claim(context(tmp_path), parent) as stage:
        finish(stage)
    with (
        pytest.raises(ArtifactError, match=r"settings\.population: 50 there, 7 now"),
        claim(context(tmp_path), parent, population=7),
    ):
        pass
    parent.write_text("other weights")
    with pytest.raises(ArtifactError, match="another supernet"), claim(context(tmp_path), parent):
        pass
    with claim(context(tmp_path, overwrite=True), parent, population=7) as stage:
        assert stage.todo
        assert not (stage.folder / "manifest.json").exists()
