"""Transfer to other images through the command line: search again, keep, resume, refuse."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import masktas as package
from masktas.artifacts import Run
from masktas.cli import main
from masktas.config import DataSettings
from masktas.data.batches import Batches
from masktas.data.sources import FileSource
from masktas.files import file_digest
from masktas.stages.transfer.source import SourceRun
from worlds import SPACE, World, count_lines, draw_images, manifest, started, until

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
TEACHER = ("--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--depth", 2,
           "--num-heads", 2)  # fmt: skip
NUM_TESTS = 30


def call(*tokens: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(token) for token in tokens])
    assert end.value.code == 0


@dataclass
class Moved:
    """A folder with two runs, `source` and `moved`, and what the transfer has read."""

    folder: Path
    command: tuple[object, ...]
    reads: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "moved"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of the same three classes: negatives, with test images of their own."""
    folder = tmp_path_factory.mktemp("target") / "images"
    draw_images(folder / "train", 130)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        with Image.open(path) as image:
            negative = ImageOps.invert(image)
        if number % 4 == 0 and number < 4 * NUM_TESTS:
            path.unlink()
            path = folder / "test" / path.relative_to(folder / "train")
            path.parent.mkdir(parents=True, exist_ok=True)
        negative.save(path)
    return folder


@pytest.fixture(scope="module")
def moved(world: World, target: Path, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """A run as far as its search, and the transfer from it."""
    folder = tmp_path_factory.mktemp("runs")
    common = ("--config", world.recipe, "--quiet", "--checkpoint-seconds", 60)
    for tokens in (
        ("teacher", world.images, *TEACHER, "--epochs", 1),
        ("supernet", "--epochs", 1),
        ("search", "--generations", 2, "--seed", 5),
    ):
        call(*tokens, "--out", folder / "source", *common)
    command = ("transfer", target, "--from", folder / "source", "--config", world.recipe,
               "--epochs", 1, "--no-refine", "--baselines", "--quiet",
               "--checkpoint-seconds", 60)  # fmt: skip
    made = Moved(folder, command)
    with pytest.MonkeyPatch.context() as patch:
        record(made.reads, patch)
        call(*command, "--out", made.out)
    return made


def record(reads: list[tuple[str, Any]], patch: pytest.MonkeyPatch) -> None:
    """Note every read of images, by split, and of labels, in order."""
    train, mixed = Batches.train, Batches.mixed
    plain, labels = Batches.plain, FileSource.labels

    def trained(self: Batches, step: int, *rows: Any) -> Any:
        reads.append((self.images.split, "train"))
        return train(self, step, *rows)

    def mixing(self: Batches, step: int, *rows: Any) -> Any:
        reads.append((self.images.split, "train"))
        return mixed(self, step, *rows)

    def measured(self: Batches, indices: Any) -> Any:
        reads.append((self.images.split, indices.tolist()))
        return plain(self, indices)

    def labelled(self: FileSource, shard: int) -> Any:
        reads.append(("labels", shard))
        return labels(self, shard)

    patch.setattr(Batches, "train", trained)
    patch.setattr(Batches, "mixed", mixing)
    patch.setattr(Batches, "plain", measured)
    patch.setattr(FileSource, "labels", labelled)


def test_it_searches_the_targets_images_with_the_supernet_of_the_source(
    moved: Moved, target: Path
) -> None:
    source, out = moved.folder / "source", moved.out
    assert not (out / "teacher").exists()
    assert not (out / "supernet").exists()
    reference, searched = manifest(out / "transfer"), manifest(out / "search/main")
    for name in ("teacher", "supernet"):
        digest = file_digest(source / name / "weights.safetensors")
        assert reference["parents"][name]["sha256"] == digest
        assert searched["parents"][name]["sha256"] == digest
    its = manifest(source / "supernet")["images"]
    for stage in ("transfer", "search/main", "finetune/main"):
        mine = manifest(out / stage)
        assert mine["settings"]["images"]["location"] == str(target)
        assert mine["images"]["splits"]["test"]["images"] == NUM_TESTS
        assert (mine["images"]["mean"], mine["images"]["std"]) == (its["mean"], its["std"])
    assert searched["images"]["splits"] != manifest(source / "search/main")["images"]["splits"]
    names = {path.name for path in (out / "finetune").iterdir()}
    assert {"main", "kept", "scratch", "random-1"} <= names
    kept, its = (manifest(one) for one in (out / "finetune/kept", source / "search/main"))
    shape = kept["settings"]["architecture"]
    for gene in ("embed_dim", "num_heads", "mlp_ratio"):
        assert shape[gene] == its["winner"]["architecture"][gene]


def test_no_label_and_no_test_image_is_read_before_its_time(moved: Moved) -> None:
    kinds = [kind for kind, _ in moved.reads]
    searching = kinds[: kinds.index("labels")]
    assert set(searching) == {"search"}
    tuned = kinds[kinds.index("labels") :]
    assert set(tuned) == {"labels", "supernet+search", "validation", "test"}
    # every network: training, validation after each epoch, then each test image once
    number = len(list((moved.out / "finetune").iterdir()))
    ends = [at for at, kind in enumerate(tuned) if kind == "test"]
    tested = [index for kind, some in moved.reads if kind == "test" for index in some]
    assert sorted(tested) == sorted([*range(NUM_TESTS)] * number)
    for at in ends:
        assert tuned[at - 1] in ("validation", "test")
        assert at + 1 == len(tuned) or tuned[at + 1] in ("test", "labels")


@pytest.mark.slow
def test_the_table_shows_the_architecture_that_was_kept(
    moved: Moved, masktas: Call, another_machine: None
) -> None:
    command = [one for one in moved.command if one != "--quiet"]
    code, _, said = masktas(*command, "--out", moved.out)
    assert code == 0
    assert "transfer is finished: nothing to do" in said
    row = next(line for line in said.splitlines() if "kept architecture" in line)
    top1 = manifest(moved.out / "finetune/kept")["test"]["top1"]
    assert f"{100 * top1:.2f}" in row
    code, said, _ = masktas("show", moved.out)
    assert code == 0
    assert f"teacher and supernet of {moved.folder / 'source'}" in said


@pytest.mark.slow
def test_killed_in_the_search_it_resumes_to_the_same_networks(moved: Moved, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [one for one in moved.command if one != "--baselines"]  # the winner is the same
    with started(*command, "--out", out) as process:
        until(lambda: count_lines(out / "search/main/history.jsonl") >= 1, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "search/main/manifest.json").exists()
    call(*command, "--out", out)
    for name in ("search/main/history.jsonl", "search/main/architecture.json",
                 "finetune/main/weights.safetensors", "finetune/main/metrics.jsonl"):  # fmt: skip
        assert file_digest(out / name) == file_digest(moved.out / name), name


@pytest.mark.slow
def test_the_other_commands_work_in_its_folder(moved: Moved, tmp_path: Path, world: World) -> None:
    copy = shutil.copytree(moved.folder, tmp_path / "runs")
    out = copy / "moved"
    common = ("--out", out, "--config", world.recipe, "--quiet")
    call("search", *common, "--generations", 1, "--max-params", "14K", "--name", "less")
    call("refine", *common, "--rounds", "1,1", "--cohort", 2)
    call("finetune", *common, "--epochs", 1, "--name", "refined")
    assert (
        file_digest(out / "refine/main/weights.safetensors")
        == manifest(out / "finetune/refined")["parents"]["weights"]["sha256"]
    )
    call("report", out)
    page = (out / "report.html").read_text()
    assert str(copy / "source") in page
    assert "kept architecture" in page
    shared, own = package.load_supernet(copy / "source"), package.load_supernet(out)
    assert torch.equal(shared.student.encoder.cls_token, own.student.encoder.cls_token)


def test_it_does_not_train_or_delete_what_belongs_to_the_source(
    moved: Moved, world: World, masktas: Call
) -> None:
    before = file_digest(moved.folder / "source/supernet/weights.safetensors")
    for tokens in (("teacher", world.images, *TEACHER), ("supernet",)):
        code, _, said = masktas(*tokens, "--out", moved.out, "--config", world.recipe,
                                "--overwrite")  # fmt: skip
        assert code == 2
        assert f"{moved.out} uses the {tokens[0]} of another run" in said
    assert file_digest(moved.folder / "source/supernet/weights.safetensors") == before


@pytest.mark.slow
def test_a_changed_source_is_refused_and_a_moved_one_is_found_again(
    moved: Moved, tmp_path: Path, world: World, masktas: Call
) -> None:
    copy = shutil.copytree(moved.folder, tmp_path / "runs")
    again = ("search", "--out", copy / "moved", "--config", world.recipe, "--name", "again")
    (copy / "source").rename(copy / "elsewhere")
    code, _, said = masktas(*again)
    assert code == 2
    assert f"another run, which is not at {copy / 'source'} any more: move it back" in said
    # what is known of the network itself is still there
    assert masktas("report", copy / "moved")[0] == 0
    assert "not there any more" in (copy / "moved/report.html").read_text()
    code, _, said = masktas("export", copy / "moved", "--to", "torch", "--num-images", 4)
    assert code == 0, said
    card = (copy / "moved/export/finetune-main/README.md").read_text()
    assert "the licence of that teacher's weights is not known here" in card
    place = [copy / "elsewhere" if one == moved.folder / "source" else one for one in moved.command]
    assert masktas(*place, "--out", copy / "moved")[0] == 0
    assert Run(copy / "moved").supernet.folder == copy / "elsewhere/supernet"
    weights = copy / "elsewhere/supernet/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for tokens in (again, (*place, "--out", copy / "moved")):
        code, _, said = masktas(*tokens)
        assert code == 2
        assert "was made from another supernet than the one in the run now" in said


def test_the_architecture_is_kept_without_a_search(
    moved: Moved, target: Path, tmp_path: Path, world: World, masktas: Call
) -> None:
    out, source = tmp_path / "kept", moved.folder / "source"
    code, _, said = masktas("transfer", target, "--from", source, "--out", out, "--epochs", 1,
                            "--config", world.recipe, "--keep-architecture")  # fmt: skip
    assert code == 0
    assert f"{NUM_TESTS} test images" in said
    assert "kept architecture" in said
    assert not (out / "search").exists()
    page = package.report(out).read_text()
    assert "The architecture was kept" in page
    assert "The search, the refinement" not in page
    mean = f"{100 * manifest(out / 'finetune/kept')['test']['mean_per_class']:.2f}"
    for text in (said, page):
        assert "mean of classes %" in text
        assert mean in text
    parents = manifest(out / "finetune/kept")["parents"]
    weights = source / "search/main/weights.safetensors"
    assert parents["weights"]["sha256"] == file_digest(weights)
    # the same network, images and seed as where it was a baseline
    name = "finetune/kept/weights.safetensors"
    assert file_digest(out / name) == file_digest(moved.out / name)


def test_what_cannot_be_transferred_is_said_in_one_sentence(
    moved: Moved, target: Path, tmp_path: Path, world: World, masktas: Call
) -> None:
    source, out = moved.folder / "source", tmp_path / "out"
    half, other = tmp_path / "half", tmp_path / "other.json"
    shutil.copytree(source, half)
    (half / "supernet/manifest.json").unlink()
    other.write_text(json.dumps(SPACE | {"depth": [2, 4]}))
    recipe = tmp_path / "other.toml"
    recipe.write_text(f'[supernet]\nspace = "{other}"\n')
    augmented = tmp_path / "augmented.toml"
    augmented.write_text('[finetune]\nrandaugment = "rand-m9-foo"\n')
    searchless = tmp_path / "searchless"
    shutil.copytree(source, searchless, ignore=shutil.ignore_patterns("search"))
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--from", tmp_path / "nowhere"), "there is no such run folder"),
        (("--from", half), "its supernet is not finished"),
        (("--from", source, "--out", source), "has a teacher or a supernet of its own"),
        (("--from", source, "--in-channels", 1), "sees 16 x 16 of 3"),
        (("--from", source, "--config", recipe), "is of space small-world: leave `space` out"),
        (("--from", source, "--keep-architecture", "--max-params", "9K"), "belongs to a search"),
        (("--from", source, "--config", augmented), "rand-m9-foo"),
        (("--from", source, "--config", augmented, "--keep-architecture"), "rand-m9-foo"),
        (("--from", searchless, "--keep-architecture"), "no finished search"),
        (("--from", source, "--max-params", "1K"), "1K"),
    ]
    for tokens, said in cases:
        more = () if "--out" in tokens else ("--out", out)
        more += () if "--config" in tokens else ("--config", world.recipe)
        code, _, error = masktas("transfer", target, *tokens, *more)
        assert (code, said in error) == (2, True), (tokens, error)
        assert not (out / "transfer/manifest.json").exists()


def test_images_are_read_as_the_supernet_saw_its_own(moved: Moved, tmp_path: Path) -> None:
    source = shutil.copytree(moved.folder / "source", tmp_path / "source")
    path = source / "supernet/manifest.json"
    content = json.loads(path.read_text())
    content["settings"]["images"]["white"] = 4095.0
    path.write_text(json.dumps(content))
    found = SourceRun.open(source).data_settings(DataSettings())
    assert (found.white, found.image_size, found.in_channels) == (4095.0, 16, 3)
    assert SourceRun.open(source).data_settings(DataSettings(white=255)).white == 255


def test_large_networks_for_small_images_are_warned_of(
    moved: Moved, tmp_path: Path, world: World, masktas: Call
) -> None:
    tiny = tmp_path / "tiny"
    rng = np.random.default_rng(0)
    for number in range(80):
        path = tiny / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).save(path)
    code, _, said = masktas("transfer", tiny, "--from", moved.folder / "source", "--out",
                            tmp_path / "out", "--config", world.recipe, "--epochs", 1,
                            "--keep-architecture")  # fmt: skip
    assert code == 0
    assert "Images of 7 x 7 pixels are enlarged to 16 x 16, the images of the supernet" in said


def test_a_plan_counts_the_stages_of_the_transfer_only(
    moved: Moved, world: World, tmp_path: Path, masktas: Call
) -> None:
    code, said, _ = masktas("plan", "--num-images", 1000, "--from", moved.folder / "source",
                            "--config", world.recipe, "--tflops", 1, "--json")  # fmt: skip
    assert code == 0
    assert [one["stage"] for one in json.loads(said)] == ["search", "refine", "finetune"]
    declared = tmp_path / "declared"
    draw_images(declared / "train", 60)
    draw_images(declared / "test", 30)
    code, said, _ = masktas("plan", declared, "--from", moved.folder / "source",
                            "--config", world.recipe, "--tflops", 1, "--json")  # fmt: skip
    (*_, tuned) = json.loads(said)
    # 90 % of the 60 images that are no test images, in batches of 16
    assert tuned["images"] == 4 * 3 * 16
    code, _, said = masktas("plan", "--num-images", 10, "--from", moved.folder / "source",
                            "--space", "tiny")  # fmt: skip
    assert (code, "leave out --space" in said) == (2, True)
