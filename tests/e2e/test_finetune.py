"""Fine-tuning by a recipe: the best epoch is kept, and everything survives a kill bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from masktas.errors import Stopped
from masktas.files import file_digest, read_lines
from masktas.space import SearchSpace
from masktas.train.loop import Training
from worlds import World, ended, manifest, started

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
# All that has a state of its own, or draws: mixing, an average, layers with rates of their own.
FLAGS = ("--recipe", "small", "--epochs", 5, "--batch-size", 48, "--lr", 0.02, "--mixup", 0.8,
         "--cutmix", 1, "--ema", 0.9, "--drop-path", 0.2, "--crop-scale", 0.35, 1)  # fmt: skip
FILES = ("weights.safetensors", "last.safetensors", "metrics.jsonl", "architecture.json")
KEYS = ("best_epoch", "epochs", "validation", "last_validation", "test")


@pytest.fixture(scope="module")
def base(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a supernet, and an architecture of its space."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    common = ("--out", out, "--config", world.recipe, "--epochs", "1")
    shape = ("--image-size", 16, "--patch-size", 4, "--embed-dim", 16, "--depth", 1,
             "--num-heads", 1)  # fmt: skip
    for tokens in (("teacher", world.images, *common, *shape), ("supernet", *common)):
        with started(*tokens, errors=out.parent / "said") as process:
            assert ended(process) == 0, (out.parent / "said").read_text()
    middle = SearchSpace.load(world.space).middle.to_dict()
    (out / "middle.json").write_text(json.dumps(middle))
    return out


@pytest.fixture
def tune(base: Path, world: World, masktas: Call) -> Callable[..., tuple[int, str, str]]:
    """Fine-tune in the run: `(name, *flags)`."""

    def call(name: str, *flags: object, out: Path = base) -> tuple[int, str, str]:
        return masktas("finetune", "--out", out, "--config", world.recipe, "--name", name,
                       "--architecture", out / "middle.json", *flags)  # fmt: skip

    return call


def results(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    made = manifest(folder)
    return {name: file_digest(folder / name) for name in FILES}, {key: made[key] for key in KEYS}


@pytest.fixture
def whole(base: Path, tune: Call) -> Path:
    """The undisturbed fine-tuning."""
    folder = base / "finetune/whole"
    if not (folder / "manifest.json").exists():
        code, _, said = tune("whole", *FLAGS)
        assert code == 0, said
        assert "Recipe small (MAE-Lite, for ViT-Tiny); 5 epochs in batches of 48." in said
        assert "Best epoch by validation: " in said
    return folder


def test_the_best_epoch_is_kept_and_the_last(whole: Path) -> None:
    made, settings = manifest(whole), manifest(whole)["settings"]["settings"]
    told = {line["epoch"]: line for line in read_lines(whole / "metrics.jsonl")
            if "validation_top1" in line}  # fmt: skip
    assert sorted(told) == [1, 2, 3, 4, 5]
    rank = {epoch: (one["validation_top1"], -one["validation_loss"]) for epoch, one in told.items()}
    assert made["best_epoch"] == max(rank, key=lambda epoch: rank[epoch])
    assert made["validation"]["loss"] == told[made["best_epoch"]]["validation_loss"]
    assert made["last_validation"]["loss"] == told[5]["validation_loss"]
    assert made["epochs"] == 5
    weights, last = (load_file(whole / name) for name in FILES[:2])
    assert (made["best_epoch"] == 5) == all(np.array_equal(weights[n], last[n]) for n in weights)
    assert not (whole / "checkpoints").exists()
    assert settings["layer_decay"] == 0.85  # the claim has the recipe's values, and the flags'
    assert (settings["recipe"], settings["mixup"], settings["epochs"]) == ("small", 0.8, 5)


@pytest.mark.parametrize("lost", [False, True])
def test_stopped_again_and_again_it_ends_the_same(
    whole: Path, base: Path, tune: Call, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Stopped in several steps; with `lost`, the newest checkpoint each time as well."""
    name, run = f"stopped-{lost}", Training._do
    steps = manifest(whole)["cost"]["images"] // 48
    for at in (1, steps // 5, steps // 5 + 1, steps * 3 // 5, steps - 1):

        def stopping(training: Training, step: int, at: int = at) -> None:
            if step == at:
                raise Stopped("killed", exit_code=75)
            run(training, step)

        monkeypatch.setattr(Training, "_do", stopping)
        assert tune(name, *FLAGS)[0] == 75
        if lost:
            max((base / f"finetune/{name}/checkpoints").glob("step-*")).unlink()
    monkeypatch.setattr(Training, "_do", run)
    code, _, said = tune(name, *FLAGS)
    assert code == 0, said
    assert "Resuming from step" in said
    assert results(base / "finetune" / name) == results(whole)


def test_it_ends_early_and_alike_when_resumed(
    base: Path, tune: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--recipe", "plain", "--epochs", 30, "--lr", 0.5, "--patience", 1)
    code, _, said = tune("patient", *flags)
    assert code == 0, said
    made, run = manifest(base / "finetune/patient"), Training._do
    assert made["epochs"] == made["best_epoch"] + 1 < 30
    assert "--patience 1 ended the training" in said
    done = read_lines(base / "finetune/patient/metrics.jsonl")[-1]["step"]
    assert made["cost"]["images"] == 16 * done

    def stopping(training: Training, step: int) -> None:
        if step == made["cost"]["images"] // 16 - 2:
            raise Stopped("killed", exit_code=75)
        run(training, step)

    monkeypatch.setattr(Training, "_do", stopping)
    assert tune("patient-again", *flags)[0] == 75
    monkeypatch.setattr(Training, "_do", run)
    assert tune("patient-again", *flags)[0] == 0
    assert results(base / "finetune/patient-again") == results(base / "finetune/patient")


@pytest.mark.slow
def test_two_processes_equal_one(whole: Path, base: Path, world: World, tmp_path: Path) -> None:
    out = shutil.copytree(base, tmp_path / "run", ignore=shutil.ignore_patterns("finetune"))
    with started("finetune", "--out", out, "--config", world.recipe, "--name", "whole",
                 "--architecture", out / "middle.json", *FLAGS, "--patience", 0, processes=2,
                 errors=tmp_path / "said") as job:  # fmt: skip
        assert ended(job) == 0, (tmp_path / "said").read_text()
    folder = out / "finetune/whole"
    assert manifest(folder)["cost"]["processes"] == 2
    assert manifest(folder)["best_epoch"] == manifest(whole)["best_epoch"]
    for name in FILES[:2]:
        mine, its = load_file(folder / name), load_file(whole / name)
        for key, tensor in mine.items():
            if not key.endswith("qkv.bias"):  # that of keys is rounding only
                np.testing.assert_allclose(tensor, its[key], atol=2e-5, err_msg=key)


def test_a_linear_head_leaves_the_network_as_it_was(base: Path, tune: Call) -> None:
    code, _, said = tune("linear", "--recipe", "linear", "--epochs", 1, "--batch-size", 16)
    assert code == 0, said
    assert tune("other", "--recipe", "linear", "--epochs", 2, "--batch-size", 16)[0] == 0
    one, other = (load_file(base / f"finetune/{name}/weights.safetensors")
                  for name in ("linear", "other"))  # fmt: skip
    for name in one:
        assert np.array_equal(one[name], other[name]) == (not name.startswith("head.")), name


def test_a_network_alone_needs_no_supernet(world: World, tmp_path: Path, masktas: Call) -> None:
    path, out = tmp_path / "a.json", tmp_path / "alone"
    shape = {"embed_dim": 16, "num_heads": [2], "mlp_ratio": [2], "head_dim": 8}
    path.write_text(json.dumps(shape | {"image_size": 16, "patch_size": 4}))
    tokens = ("finetune", world.images, "--out", out, "--architecture", path, "--epochs", 1,
              "--batch-size", 16)  # fmt: skip
    code, _, said = masktas(*tokens)
    assert code == 2
    assert f"no weights to start from, neither beside {path} nor in {out}/supernet" in said
    code, _, said = masktas(*tokens, "--init", "scratch")
    assert code == 0, said
    splits = manifest(out / "finetune/main")["images"]["splits"]
    assert {"supernet", "search", "validation", "test"} <= set(splits)
    assert masktas("evaluate", out)[0] == 0
    assert masktas("predict", out, world.images)[0] == 0


def test_a_trained_network_starts_in_another_folder(
    base: Path, whole: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    classes = [folder.name for folder in sorted(world.images.iterdir()) if folder.is_dir()]
    source = tmp_path / "photos"
    for name in classes[:2]:  # other images, with another mean
        shutil.copytree(world.images / name, source / f"new-{name}")
    out = tmp_path / "other"
    tokens = ("finetune", source, "--out", out, "--architecture", whole, "--epochs", 1,
              "--batch-size", 4, "--lr", 1e-9, "--recipe", "plain")  # fmt: skip
    code, _, said = masktas(*tokens)
    assert code == 0, said
    made, its = out / "finetune/main", json.loads((whole / "input.json").read_text())
    mine = json.loads((made / "input.json").read_text())
    assert [mine[key] for key in ("mean", "std")] == [its[key] for key in ("mean", "std")]
    assert mine["classes"] == [f"new-{name}" for name in classes[:2]]
    # in a run, other images are read as the run's weights have seen their own
    code, _, said = masktas("finetune", source, "--out", base, "--name", "others", "--architecture",
                            base / "middle.json", *tokens[6:])  # fmt: skip
    assert code == 0, said
    own = manifest(base / "supernet")["images"]
    other = json.loads((base / "finetune/others/input.json").read_text())
    assert [other[key] for key in ("mean", "std")] == [own[key] for key in ("mean", "std")]
    weights, before = (load_file(folder / "weights.safetensors") for folder in (made, whole))
    for name, tensor in weights.items():
        if not name.startswith("head."):
            np.testing.assert_allclose(tensor, before[name], atol=1e-5, err_msg=name)


def test_by_default_size_and_length_choose_and_it_is_said(base: Path, tune: Call) -> None:
    code, _, said = tune("auto", "--recipe", "auto", "--epochs", 1)
    assert code == 0, said
    assert "1 epoch, less than a third of the 300 of recipe small; 1 epoch in batches" in said
    settings = manifest(base / "finetune/auto")["settings"]["settings"]
    assert (settings["recipe"], settings["layer_decay"]) == ("plain", 1.0)
    assert settings["batch_size"] == 16


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--recipe", "medium"), "medium"),
        (("--recipe", "large"), "fewer than one batch of 1024: choose a smaller --batch-size"),
        (("--min-lr", 5), "above the peak learning rate"),
        (("--layer-decay", 0), "--layer-decay 0: input should be greater than 0"),
        (("--architecture", "nowhere"), "--architecture nowhere: there is no such file or folder"),
    ],
)
def test_what_cannot_be_is_refused(
    base: Path, masktas: Call, flags: tuple[object, ...], complaint: str
) -> None:
    shape = () if "--architecture" in flags else ("--architecture", base / "middle.json")
    code, _, said = masktas("finetune", "--out", base, "--name", "no", *shape, *flags)
    assert code == 2
    assert complaint in said
    assert not (base / "finetune/no").exists()
