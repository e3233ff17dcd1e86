"""Bad input: one clear sentence, exit code 2, nothing half-written, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from worlds import World

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("run {missing} --out {out} --space micro", "there is no such file or folder"),
        ("run {empty} --out {out} --space micro", "no images in it"),
        ("teacher {missing} --out {out}", "there is no such file or folder"),
        ("teacher {empty} --out {out}", "no images in it"),
        ("teacher {text} --out {out}", "give the folder that holds the images"),
        ("teacher {images} --out {out} --image-size 30", "does not divide into patches"),
        ("teacher {images} --out {out} --epochs 0", "--epochs"),
        ("teacher {images} --out {out} --epochs many", "--epochs"),
        ("teacher {images} --out {out} --epohs 3", "Did you mean --epochs"),
        ("teacher {images} --out {out} --mask-ratio 1.5", "--mask-ratio"),
        ("teacher {images} --out {out} --mask-ratio 0.999", "choose another mask_ratio"),
        ("teacher {images} --out {out} --num-heads 5", "does not divide into 5 heads"),
        ("teacher {images} --out {out} --decoder-dim 33", "a multiple of 32"),
        ("teacher {images} --out {out} --device tpu", "choose auto, cpu, cuda"),
        ("teacher {images} --out {out} --device cuda:99", "--device cpu works everywhere"),
        ("teacher {images} --out {out} --config {missing}", "cannot be read"),
        ("teacher {images} --out {out} --config {typo}", "did you mean 'teacher.epochs'"),
        ("teacher {images}", "--out"),
        ("teacher --out {out}", "DATA"),
        ("teachr {images} --out {out}", 'Did you mean "teacher"'),
        ("supernet --out {out} --space micro", "teacher stage is missing"),
        ("supernet --out {out} --space mikro", "Did you mean 'micro'"),
        ("search --out {out} --max-params 1M", "supernet stage is missing"),
        ("finetune --out {out}", "supernet stage is missing"),
        ("report {out}", "no finished stage"),
        ("run {images} --out {out} --space mikro", "Did you mean 'micro'"),
        ("run {images} --out {out} --space micro --max-params 10K", "params go from 26"),
        ("run {images} --out {out} --space micro --max-params lots", "is not a budget"),
        ("run {images} --out {out} --space micro --max-macs 1M --min-macs 2M", "is above"),
        ("run {images} --out {out} --space {badspace}", "unknown key 'embed_dims'"),
        ("run cifar-10 --out {out} --space micro", "Did you mean cifar10"),
        ("teacher {images} --out {text}", "is a file"),
        ("teacher {images} --out {text}/below", "is a file"),
        ("teacher {images} --out {out} --cache-dir {text}", "is a file"),
        ("teacher {images} --out {out} --cache-size " + "9" * 400 + "GB", "is not a size"),
        ("show {missing}", "neither a file, a folder nor a preset"),
        ("show {text}", "not JSON"),
        ("show {empty}", "neither a run folder"),
    ],
)  # fmt: skip
def test_one_sentence_and_exit_code_2(
    tokens: str, words: str, world: World, tmp_path: Path, masktas: Call
) -> None:
    places = {name: tmp_path / name for name in ("missing", "empty", "out")}
    places["empty"].mkdir()
    places |= {"images": world.images, "text": tmp_path / "notes.txt"}
    places["text"].write_text("hello")
    places["typo"] = tmp_path / "typo.toml"
    places["typo"].write_text("[teacher]\nepohcs = 3\n")
    places["badspace"] = tmp_path / "bad.json"
    places["badspace"].write_text(json.dumps({"embed_dims": [8]}))
    code, out, said = masktas(*tokens.format(**places).split())
    assert code == 2
    assert out == ""
    assert words in said
    assert said.startswith("masktas: ")
    assert said.count("\n") == 1, "one sentence, one line"
    assert not places["out"].exists(), "nothing half-written"
    assert places["text"].read_text() == "hello"


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("--max-params 15K", "--max-params 20K"),
        ("--max-params 20K", "--max-params 20K --budget-counts linear"),
        ("--max-params 20K --budget-counts linear", "--max-params 20K"),
        ("--max-params 20K --budget-counts upernet:8", "--max-params 20K --budget-counts linear"),
    ],
)
def test_a_supernet_that_was_trained_near_another_budget_is_refused(
    then: str, now: str, world: World, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    words = then.split()
    names = (flag.removeprefix("--").replace("-", "_") for flag in words[::2])
    trained = {"sampler": "focus", **dict(zip(names, words[1::2], strict=True))}
    claim = out / "supernet/settings.json"
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({"settings": trained}))
    given = f"run {world.images} --out {out} --space {world.space} --num-classes 3 {now}"
    code, _, said = masktas(*given.split())
    assert (code, said) == (2, (
        f"masktas: {claim.parent} was trained near the budget {then}, not near {now}: search it by "
        f"`masktas search --out {out} {now}`, or give another --out.\n"
    ))  # fmt: skip
    assert [path for path in out.rglob("*") if path.is_file()] == [claim]


def test_a_checkpoint_of_another_architecture_is_refused(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    teacher = ("teacher", world.images, "--patch-size", 4, "--image-size", 16, "--depth", 2,
               "--num-heads", 2, "--config", world.recipe, "--epochs", 1, "--quiet")  # fmt: skip
    assert masktas(*teacher, "--embed-dim", 32, "--out", tmp_path / "a")[0] == 0
    assert masktas(*teacher, "--embed-dim", 16, "--out", tmp_path / "b")[0] == 0
    swapped = (tmp_path / "b/teacher/weights.safetensors").read_bytes()
    (tmp_path / "a/teacher/weights.safetensors").write_bytes(swapped)
    code, _, said = masktas("supernet", "--out", tmp_path / "a", "--config", world.recipe)
    assert code == 2
    assert "of another architecture" in said
    assert not (tmp_path / "a/supernet").exists()


def test_a_damaged_weight_file_is_refused(world: World, tmp_path: Path, masktas: Call) -> None:
    teacher = ("teacher", world.images, "--patch-size", 4, "--image-size", 16, "--depth", 2,
               "--num-heads", 2, "--embed-dim", 16, "--config", world.recipe, "--epochs", 1,
               "--quiet", "--out", tmp_path / "a")  # fmt: skip
    assert masktas(*teacher)[0] == 0
    weights = tmp_path / "a/teacher/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    code, _, said = masktas("supernet", "--out", tmp_path / "a", "--config", world.recipe)
    assert code == 2
    assert "checksum" in said


def test_a_space_of_other_patches_than_the_teachers_is_refused(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    teacher = ("teacher", world.images, "--patch-size", 8, "--image-size", 16, "--depth", 2,
               "--num-heads", 2, "--embed-dim", 16, "--config", world.recipe, "--epochs", 1,
               "--quiet", "--out", tmp_path / "a")  # fmt: skip
    assert masktas(*teacher, "--mask-ratio", 0.5)[0] == 0
    code, _, said = masktas("supernet", "--out", tmp_path / "a", "--config", world.recipe)
    assert code == 2
    assert "sees a grid of 2 x 2 patches, and the students 16 x 16 pixels in patches of 4" in said
    code, _, said = masktas("supernet", "--out", tmp_path / "a", "--space", "micro")
    assert code == 2
    assert "give --image-size 32" in said


def test_a_learning_rate_beyond_all_numbers_is_no_traceback(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    code, _, said = masktas(
        "teacher", world.images, "--image-size", 16, "--patch-size", 4, "--embed-dim", 32,
        "--depth", 2, "--num-heads", 2, "--epochs", 2, "--batch-size", 32, "--lr", "1e300",
        "--tensorboard", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "--lr" in said
    assert list(tmp_path.rglob("events.out.tfevents.*"))
