"""What must hold across stages: labels unread, the teacher unchanged, one seed one result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from masktas.data.sources import FileSource, ParquetSource
from masktas.files import file_digest
from worlds import World, manifest

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]

TEACHER = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)


@pytest.fixture(scope="module")
def world(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The small world with stages of one epoch."""
    made = World(tmp_path_factory.mktemp("brief"))
    shutil.copytree(world.images, made.images)
    shutil.copy(world.space, made.space)
    made.recipe.write_text(world.recipe.read_text().replace("\nepochs = 4", "\nepochs = 1"))
    return made


def three_stages(masktas: Call, world: World, images: Path, out: Path, *more: object) -> None:
    common = ("--out", out, "--config", world.recipe, "--quiet", *more)
    assert masktas("teacher", images, *TEACHER, *common)[0] == 0
    assert masktas("supernet", *common)[0] == 0
    assert masktas("search", *common)[0] == 0


def test_labels_are_not_read_before_fine_tuning(
    world: World, tmp_path: Path, masktas: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set whose labels raise goes through every stage but the last."""

    def explode(_: object, __: int) -> None:
        raise AssertionError("labels were read")

    monkeypatch.setattr(FileSource, "labels", explode)
    monkeypatch.setattr(ParquetSource, "labels", explode)
    three_stages(masktas, world, world.images, tmp_path / "run")
    with pytest.raises(AssertionError, match="labels were read"):
        masktas("finetune", "--out", tmp_path / "run", "--config", world.recipe)


@pytest.mark.slow
def test_images_without_labels_are_taken_as_far_as_the_search(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(world.images.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    code, _, said = masktas("run", flat, "--out", tmp_path / "run", "--config", world.recipe)
    assert code == 0
    assert "have no labels" in said
    assert (tmp_path / "run/search/main/weights.safetensors").exists()
    assert (tmp_path / "run/report.html").exists()
    assert not (tmp_path / "run/finetune").exists()


@pytest.mark.slow
def test_parquet_with_unreadable_labels_is_searched(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": path.name}, "label": None}
        for path in sorted(world.images.rglob("*.png"))
    ]
    folder = tmp_path / "table"
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    three_stages(masktas, world, folder, tmp_path / "run")
    code, _, said = masktas("finetune", "--out", tmp_path / "run", "--config", world.recipe)
    assert code == 2
    assert "some rows have no label" in said


@pytest.mark.slow
def test_one_seed_one_result_and_the_teacher_never_changes(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    first, second, other = tmp_path / "first", tmp_path / "second", tmp_path / "other"
    three_stages(masktas, world, world.images, first)
    teacher = file_digest(first / "teacher/weights.safetensors")
    three_stages(masktas, world, world.images, second)
    three_stages(masktas, world, world.images, other, "--seed", 1)
    for name in ("teacher/weights.safetensors", "supernet/weights.safetensors",
                 "supernet/metrics.jsonl", "search/main/history.jsonl"):  # fmt: skip
        assert file_digest(first / name) == file_digest(second / name), name
        assert file_digest(first / name) != file_digest(other / name), name
    assert file_digest(first / "teacher/weights.safetensors") == teacher


def test_broken_files_are_skipped_counted_and_named(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    folder = tmp_path / "images"
    for path in sorted(world.images.rglob("*.png")):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    (folder / "circle/0-empty.png").write_bytes(b"")
    (folder / "circle/1-text.jpg").write_text("not an image")
    whole = next(world.images.rglob("*.png")).read_bytes()
    (folder / "square/2-torn.png").write_bytes(whole[: len(whole) // 2])
    code, _, said = masktas(
        "teacher", folder, *TEACHER, "--out", tmp_path / "run", "--config", world.recipe
    )
    assert code == 0
    assert "3 of 243 images could not be read and were skipped: circle/0-empty.png" in said
    skipped = manifest(tmp_path / "run/teacher")["images"]["skipped"]
    assert [one["name"] for one in skipped] == [
        "circle/0-empty.png", "circle/1-text.jpg", "square/2-torn.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_declared_test_split_is_kept(world: World, tmp_path: Path, masktas: Call) -> None:
    folder = tmp_path / "images"
    for number, path in enumerate(sorted(world.images.rglob("*.png"))):
        target = folder / ("test" if number % 4 == 0 else "train") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    three_stages(masktas, world, folder, tmp_path / "run")
    assert masktas("finetune", "--out", tmp_path / "run", "--config", world.recipe)[0] == 0
    tuned = manifest(tmp_path / "run/finetune/main")
    assert tuned["images"]["splits"]["test"]["images"] == 60
    assert tuned["classes"] == ["circle", "cross", "square"]
