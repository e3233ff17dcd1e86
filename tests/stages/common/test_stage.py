"""A stage's folder is claimed within a `with` block: locked, resumed, finished, refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from masktas.config import DataSettings, SearchSettings
from masktas.console import Console
from masktas.data.splits import SPLITS
from masktas.data.store.image_store import SplitAccess
from masktas.errors import ArtifactError, DataError
from masktas.files import read_json, write_json
from masktas.stages.common.claimed import ClaimedStage
from masktas.stages.common.images import ImageInput
from masktas.stages.common.stage import Context

IMAGES = ImageInput("somewhere", DataSettings(image_size=16, in_channels=3))
LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


class Store:
    """As much of a store as a claim and a manifest need."""

    folder = Path("store")
    access = SplitAccess({}, ())

    def __init__(self, digest: str = "a") -> None:
        self.splits = {name: {"images": 1, "digest": digest} for name in SPLITS}

    def summary(self) -> dict[str, Any]:
        return {"location": "somewhere"}


def context(out: Path, *, overwrite: bool = False, accept: bool = False) -> Context:
    console = Console(quiet=True)
    return Context(out, None, console, overwrite=overwrite, accept_changed_images=accept)


def claim(of: Context, parent: Path, *, digest: str = "a", **settings: Any) -> Any:
    return of.stage(
        of.run.search(),
        SearchSettings(**settings),
        parents={"supernet": parent},
        images=IMAGES,
        store=Store(digest),  # type: ignore[arg-type]
        more={"rated_by": "a key"},
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


def test_changed_images_are_refused_on_resume_unless_accepted(tmp_path: Path, parent: Path) -> None:
    with claim(context(tmp_path), parent) as stage:
        (stage.folder / "history.jsonl").write_text("{}\n")
    recorded = read_json(stage.folder / "started.json")
    changed = r"search: other images, 1 before and 1 now.*--accept-changed-images"
    with (
        pytest.raises(DataError, match=changed) as caught,
        claim(context(tmp_path), parent, digest="b"),
    ):
        pass
    assert "settings" not in str(caught.value)
    assert read_json(stage.folder / "started.json") == recorded
    with claim(context(tmp_path, accept=True), parent, digest="b") as stage:
        assert stage.todo
        assert finish(stage)["earlier_images"] == [recorded["splits"]]
    with pytest.raises(DataError, match=changed), claim(context(tmp_path), parent):
        pass  # finished, from other images than there are now
    with claim(context(tmp_path), parent, digest="b") as stage:
        assert not stage.todo


def test_other_settings_are_named_before_changed_images(tmp_path: Path, parent: Path) -> None:
    with claim(context(tmp_path), parent) as stage:
        (stage.folder / "history.jsonl").write_text("{}\n")
    claimed = read_json(stage.folder / "settings.json")
    claimed["images"]["limit"] = 9
    write_json(stage.folder / "settings.json", claimed)
    with (
        pytest.raises(ArtifactError, match=r"images\.limit: 9 there, None now"),
        claim(context(tmp_path), parent, digest="b"),
    ):
        pass


def test_overwrite_starts_with_the_present_images(tmp_path: Path, parent: Path) -> None:
    with claim(context(tmp_path), parent) as stage:
        finish(stage)
    with claim(context(tmp_path, overwrite=True), parent, digest="b") as stage:
        assert "earlier_images" not in finish(stage)


def test_another_version_is_a_warning_on_resume(
    tmp_path: Path, parent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claim(context(tmp_path), parent) as stage:
        (stage.folder / "history.jsonl").write_text("{}\n")
    recorded = read_json(stage.folder / "started.json")
    recorded["versions"]["torch"] = "1.0"
    write_json(stage.folder / "started.json", recorded)
    capsys.readouterr()
    with claim(context(tmp_path), parent) as stage:
        assert stage.todo
    assert "was started with other versions (torch 1.0 then, " in capsys.readouterr().err
