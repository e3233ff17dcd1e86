"""Twins through the command line: a supernet that labels train, and a network distilled alone."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import masktas as package
from masktas.artifacts import Run
from masktas.cli import main
from masktas.config import DistillSettings, RuntimeSettings, SupernetSettings
from masktas.console import Console
from masktas.errors import Stopped
from masktas.files import file_digest, read_lines
from masktas.nn.student import MaskedStudent
from masktas.space import Architecture, SearchSpace
from masktas.stages.common.stage import Context
from masktas.stages.common.tasks import cohort_task
from masktas.stages.distill.stage import _open
from masktas.train.loop import Training
from masktas.train.ranks import ALONE
from masktas.train.step import train_step
from scripts import imported
from worlds import World, ended, manifest, started

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
TEACHER = ("--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--depth", 2,
           "--num-heads", 2, "--epochs", 1)  # fmt: skip
STILL = 5e-6  # what the smallest learning rate of a schedule comes to


def call(*tokens: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([*map(str, tokens), "--quiet"])
    assert end.value.code == 0


@pytest.fixture(scope="module")
def quick(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe with few ratings and one checkpoint."""
    text = world.recipe.read_text().replace("checkpoint_seconds = 0", "checkpoint_seconds = 60")
    text = text.replace("population = 8\ngenerations = 4", "population = 4\ngenerations = 2")
    recipe = tmp_path_factory.mktemp("quick") / "recipe.toml"
    recipe.write_text(text.replace("baselines = 2", "baselines = 0"))
    return recipe


@pytest.fixture(scope="module")
def labelled(world: World, quick: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with labels."""
    out = tmp_path_factory.mktemp("labelled") / "labels"
    call("run", world.images, "--supervised", "--out", out, "--config", quick, "--epochs", 2)
    return out


@pytest.fixture(scope="module")
def distilled(world: World, quick: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without labels as far as the search, with a uniform network beside it."""
    out = tmp_path_factory.mktemp("distilled") / "plain"
    more = ("--out", out, "--config", quick)
    call("teacher", world.images, *TEACHER, *more)
    call("supernet", "--epochs", 2, "--beta", 0.5, "--probe-accuracy", "--probes", 2, *more)
    call("search", *more)
    call("distill", "--architecture", "uniform:24x2", *more)
    return out


def test_a_run_with_labels_needs_no_teacher_and_keeps_the_head(labelled: Path) -> None:
    assert not (labelled / "teacher").exists()
    assert not (labelled / "refine").exists()
    supernet, search = manifest(labelled / "supernet"), manifest(labelled / "search/main")
    assert supernet["classes"] == ["circle", "cross", "square"]
    assert set(supernet["parents"]) == set()
    assert set(search["parents"]) == {"supernet"}
    assert search["settings"]["settings"]["rating"] == "accuracy"
    assert 0 <= search["winner"]["rating"] <= 1
    winner = Architecture.load(labelled / "search/main/architecture.json")
    assert (winner.num_classes, winner.pool) == (3, "mean")
    store = load_file(labelled / "supernet/weights.safetensors")
    weights = load_file(labelled / "search/main/weights.safetensors")
    assert np.abs(weights["head.weight"]).max() > 0
    for name, tensor in weights.items():
        slices = tuple(slice(0, size) for size in tensor.shape)
        assert np.array_equal(tensor, store[f"encoder.{name}"][slices]), name
    last = read_lines(labelled / "supernet/metrics.jsonl")[-1]
    assert {"probe/middle/cross_entropy", "probe/middle/top1", "probe/middle/accuracy"} <= set(last)
    assert "the head that all networks share" in (labelled / "report.html").read_text()


def test_what_a_search_with_labels_finds_is_a_classifier(
    labelled: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    run = shutil.copytree(labelled, tmp_path / "run")
    found = run / "search/main"
    network = package.load(found)
    assert network.classes == ("circle", "cross", "square")
    (image, *_) = sorted(world.images.rglob("*.png"))
    assert len(network.predict(image)[0].top) == 3
    code, said, error = masktas("evaluate", found, "--split", "search", "--device", "cpu")
    assert code == 0, error
    assert "Top-1" in said
    outcome = manifest(run / "evaluate/search-main-search")["outcome"]
    assert outcome["top1"] == pytest.approx(manifest(found)["winner"]["rating"])
    code, _, error = masktas("export", found, "--to", "torch")
    assert code == 0, error
    card = (run / "export/search-main/README.md").read_text()
    assert "Its 3 classes are circle, cross, square." in card
    assert "trained without labels" not in card
    exported = package.load(run / "export/search-main")
    assert exported.predict(image) == network.predict(image)


def test_splits_keep_labels_apart(labelled: Path) -> None:
    """What the search rates on was not trained on, though both read labels."""
    supernet, search = (manifest(labelled / name) for name in ("supernet", "search/main"))
    sizes = {name: one["images"] for name, one in supernet["images"]["splits"].items()}
    assert supernet["cost"]["images"] == 2 * (sizes["supernet"] // 16) * 16
    assert search["images"]["splits"] == supernet["images"]["splits"]


def test_fine_tuning_inherits_the_head_if_the_classes_are_the_same(
    labelled: Path, quick: Path
) -> None:
    still = ("--lr", 1e-12, "--weight-decay", 0, "--epochs", 1, "--config", quick)
    head = load_file(labelled / "search/main/weights.safetensors")["head.weight"]
    found = {}
    for name, more in (("still", ()), ("token", ("--pool", "cls"))):
        call("finetune", "--out", labelled, "--name", name, *still, *more)
        found[name] = load_file(labelled / f"finetune/{name}/weights.safetensors")["head.weight"]
        shutil.rmtree(labelled / f"finetune/{name}")
    assert np.abs(head).max() > 10 * STILL
    assert np.abs(found["still"] - head).max() < STILL
    random = np.abs(found["token"] - head).max()
    assert random > 10 * STILL, "a head of another pooling is of no use"


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (("search", "--name", "b"), "give --rating accuracy"),
        (("search", "--name", "b", "--rating", "fusion"), "was trained with labels"),
        (("refine",), "which a refinement needs"),
        (("validate",), "which a validation of ratings needs"),
        (("distill", "--architecture", "uniform:16x2"), "which distillation of one network needs"),
        (("transfer", "photos", "--from", "{labelled}"), "which a transfer needs"),
    ],
)
def test_what_needs_a_teacher_is_refused_in_one_sentence(
    labelled: Path, masktas: Call, tokens: tuple[object, ...], said: str
) -> None:
    tokens = tuple(str(one).format(labelled=labelled) for one in tokens)
    code, _, error = masktas(*tokens, "--out", labelled.parent if "--from" in tokens else labelled)
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


def test_images_that_labels_cannot_train_on_are_refused(
    labelled: Path, world: World, tmp_path: Path, masktas: Call
) -> None:
    out, more = tmp_path / "run", ("--config", world.recipe)
    flat, single, two = (tmp_path / name for name in ("flat", "single", "two"))
    for number, path in enumerate(sorted(world.images.rglob("*.png"))[:120]):
        for folder in (flat / f"{number}.png", single / "only" / f"{number}.png",
                       two / "ab"[number % 2] / f"{number}.png"):  # fmt: skip
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    for tokens, said in (
        (("supernet", "--supervised"), "with --supervised, give DATA"),
        (("supernet", flat, "--supervised"), "the images have no labels"),
        (("supernet", single, "--supervised"), "all images are of one class"),
        (("run", flat, "--supervised"), "the images have no labels"),
        (("supernet", two, "--supervised", "--teacher", "x"), "leave out --teacher x"),
    ):
        code, _, error = masktas(*tokens, "--out", out, *more)
        assert code == 2, tokens
        assert said in error
        assert not (out / "supernet").exists()
    code, _, error = masktas(
        "search", two, "--rating", "accuracy", "--name", "other", "--out", labelled, *more
    )
    assert code == 2
    assert "has other classes (a, b)" in error


@pytest.mark.slow
def test_stopped_with_labels_it_resumes_to_the_same_bits(
    world: World, quick: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two steps, and after the probes of the first epoch."""
    command = ("run", world.images, "--supervised", "--out", tmp_path, "--config", quick,
               "--epochs", 2, "--checkpoint-seconds", 0, "--quiet")  # fmt: skip
    step_of = Training._do
    per_epoch = manifest(labelled / "supernet")["cost"]["images"] // 16 // 2
    for at in (3, per_epoch + 1):

        def stopping(training: Training, step: int, at: int = at) -> None:
            if step == at:
                raise Stopped("killed", exit_code=75)
            step_of(training, step)

        monkeypatch.setattr(Training, "_do", stopping)
        with pytest.raises(SystemExit) as end:
            main([*map(str, command)])
        assert end.value.code == 75
    monkeypatch.setattr(Training, "_do", step_of)
    call(*command[:-1])
    for name in ("supernet/weights.safetensors", "supernet/metrics.jsonl",
                 "finetune/main/weights.safetensors"):  # fmt: skip
        assert file_digest(labelled / name) == file_digest(tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.slow
def test_two_processes_train_with_labels_as_one(world: World, quick: Path, tmp_path: Path) -> None:
    """Batches of 13: 6 images for one process and 7 for the other."""
    command = ("supernet", world.images, "--supervised", "--batch-size", 13, "--epochs", 1,
               "--config", quick, "--quiet", "--out")  # fmt: skip
    call(*command[:-2], "--out", tmp_path / "1")
    with started(*command, tmp_path / "2", processes=2, errors=tmp_path / "said") as job:
        assert ended(job) == 0, (tmp_path / "said").read_text()
    lines = [read_lines(tmp_path / count / "supernet/metrics.jsonl") for count in "12"]
    assert len(lines[0]) == len(lines[1]) > 5
    for mine, other in zip(*lines, strict=True):
        assert mine.keys() == other.keys()
        for name in ("loss", "grad_norm"):
            assert mine[name] == pytest.approx(other[name], rel=1e-5)
    probes = [name for name in lines[0][-1] if name.endswith("/cross_entropy")]
    assert len(probes) == 11
    for name in probes:
        assert lines[0][-1][name] == pytest.approx(lines[1][-1][name], rel=1e-5)


def test_a_network_alone_sees_what_the_supernet_saw(distilled: Path) -> None:
    supernet, alone = (manifest(distilled / name) for name in ("supernet", "distill/main"))
    assert alone["cost"]["images"] == supernet["cost"]["images"]
    assert alone["equal"]["what"] == "images"
    settings = alone["settings"]["settings"]
    assert (settings["beta"], settings["mask_ratio"], settings["decoder_dim"]) == (0.5, 0.75, 32)
    shape = Architecture.load(distilled / "distill/main/architecture.json")
    assert (shape.embed_dim, shape.num_heads, shape.mlp_ratio) == (24, (3, 3), (4.0, 4.0))
    assert {one["stage"] for one in json.loads(_shown(distilled))["stages"]} >= {"distill/main"}


def test_a_network_alone_can_be_used_and_evaluated(distilled: Path, world: World) -> None:
    network = package.load(distilled / "distill/main")
    assert network.embed(world.images).values.shape[1] == 24
    evaluated = package.evaluate(distilled / "distill/main", split="validation")
    assert 0 <= evaluated["outcome"]["knn"]["top1"] <= 1
    assert (distilled / "evaluate/distill-main-validation/evaluation.json").exists()


def test_a_network_alone_can_start_from_the_supernet_and_learn_features_only(
    distilled: Path, tmp_path: Path
) -> None:
    """By benchmarks/alone.py; with a learning rate of nothing it keeps its weights."""
    alone, largest = imported("alone"), tmp_path / "largest.json"
    space = SearchSpace.load(distilled / "supernet/space.json")
    largest.write_text(json.dumps(space.largest.to_dict()))
    still = tmp_path / "still.toml"
    still.write_text("[distill]\nlr = 1e-12\nweight_decay = 0.0\n")
    store = load_file(distilled / "supernet/weights.safetensors")["encoder.cls_token"]
    for init in ("supernet", "random"):
        alone.train(
            argparse.Namespace(
                run=distilled, config=still, init=init, losses="features", architecture=str(largest)
            )
        )
        folder = distilled / f"distill/{init}-features"
        assert "pixel_loss" not in read_lines(folder / "metrics.jsonl")[0]
        token = load_file(folder / "weights.safetensors")["cls_token"]
        assert (np.abs(token - store).max() < STILL) == (init == "supernet")
        shutil.rmtree(folder)


def _shown(run: Path) -> str:
    from masktas.cli.show import describe

    return json.dumps(describe(str(run)))


def test_a_network_alone_is_a_member_of_a_cohort_bit_for_bit(distilled: Path) -> None:
    run = Run(distilled)
    trained = run.supernet.manifest()["settings"]
    settings = DistillSettings().of_supernet(SupernetSettings(**trained["settings"]))
    space = SearchSpace.from_dict(trained["space"])
    one = Architecture.load(distilled / "distill/main/architecture.json")
    context = Context(distilled, RuntimeSettings(), Console(quiet=True))
    images = context.images_recorded(run.supernet, None, None)
    inputs = _open(context, images, settings, space, one, None)
    other = MaskedStudent(space.smallest, inputs.shape)
    other.init_weights(torch.Generator().manual_seed(9))
    task = cohort_task(
        settings,
        {"other": other, "same": inputs.student(context.setup.generator("distill"))},
        inputs.shape,
        inputs.teacher,
        inputs.batches,
        context.setup,
        mask_ratio=settings.mask_ratio,
        pixels=True,
        beta=settings.beta,
    )
    for step in range(settings.epochs * inputs.batches.steps_per_epoch):
        losses = train_step(task, step, ALONE)
    member = task.module.get_submodule("same")
    assert isinstance(member, MaskedStudent)
    found = load_file(distilled / "distill/main/weights.safetensors")
    for name, tensor in member.encoder.state_dict().items():
        assert np.array_equal(found[name], tensor.numpy()), name
    weighed = losses["same/pixel_loss"] + 0.5 * losses["same/feature_loss"]
    assert losses["same/loss"].item() == pytest.approx(weighed.item())


def test_operations_are_spent_to_the_nearest_step_and_weights_are_fine_tuned(
    distilled: Path, labelled: Path, quick: Path
) -> None:
    more = ("--out", distilled, "--config", quick)
    call("distill", "--name", "costly", "--architecture", "uniform", "--as-costly-as", distilled,
         *more)  # fmt: skip
    found = manifest(distilled / "distill/costly")
    spent = [manifest(distilled / name)["cost"]["flops"] for name in ("supernet", "search/main")]
    of_step = found["cost"]["flops"] / (found["cost"]["images"] / 16)
    assert found["equal"]["amount"] == sum(spent)
    assert abs(found["cost"]["flops"] - sum(spent)) <= of_step / 2
    assert read_lines(distilled / "distill/costly/metrics.jsonl")[-1]["step"] == (
        found["cost"]["images"] // 16
    )
    wanted = json.loads((distilled / "search/main/uniform.json").read_text())
    own = json.loads((distilled / "distill/costly/architecture.json").read_text())
    assert own["num_heads"] == wanted["num_heads"]
    for name in ("costly", "main"):
        call("finetune", "--name", name, "--architecture", distilled / "distill" / name,
             "--epochs", 1, *more)  # fmt: skip
    tuned = manifest(distilled / "finetune/costly")
    assert tuned["parents"]["weights"]["sha256"] == file_digest(
        distilled / "distill/costly/weights.safetensors"
    )
    page = package.report(distilled, beside=labelled).read_text()
    for words in ("Twins: found or made otherwise", "searched without labels",
                  "searched with labels", "distill/costly: distilled alone, equal operations",
                  "distill/main: distilled alone, equal images", "dashed: labels",
                  "accuracy of a linear classifier", "<td>to watch only</td>"):  # fmt: skip
        assert words in page, words
    assert "cross-entropy</text>" not in page, "curves that only one of both has are not drawn"
    top1 = f"{100 * tuned['test']['top1']:.2f}"
    row = page.split("distill/costly: distilled")[1].split("</tr>")[0]
    assert f">{top1}</td>" in row


def test_a_plan_with_labels_has_no_teacher_and_no_refinement(world: World, masktas: Call) -> None:
    flags = ("--num-images", 400, "--config", world.recipe, "--tflops", 1, "--json")
    stages = []
    for more in ((), ("--supervised",)):
        code, printed, progress = masktas("plan", *flags, *more)
        assert code == 0
        stages.append([one["stage"] for one in json.loads(printed)])
    assert "estimating: 3/3 finetune (0 s left)" in progress
    assert stages == [
        ["teacher", "supernet", "search", "refine", "finetune"],
        ["supernet", "search", "finetune"],
    ]


def test_a_plan_of_one_network_alone_counts_what_the_stage_has_counted(
    distilled: Path, quick: Path, tmp_path: Path, masktas: Call
) -> None:
    recipe = tmp_path / "recipe.toml"
    sizes = "[teacher]\npatch_size = 4\nembed_dim = 32\ndepth = 2\nnum_heads = 2\n"
    recipe.write_text(quick.read_text().replace("[teacher]\n", sizes))
    found = manifest(distilled / "distill/main")
    count = sum(one["images"] for one in found["images"]["splits"].values())
    flags = ("plan", "--num-images", count, "--distill", "--config", recipe)
    one = (*flags, "--epochs", 2, "--architecture", "uniform:24x2")
    code, printed, error = masktas(*one, "--tflops", 1, "--json")
    assert code == 0, error
    (planned,) = json.loads(printed)
    assert planned["stage"] == "distill"
    for name in ("images", "flops"):
        assert planned[name] == found["cost"][name], name
    assert planned["memory_bytes"] > 16 * found["params"]
    code, printed, error = masktas(*one, "--seconds", 0.1)
    assert code == 0, error
    assert "The network is uniform:24x2;" in printed
    code, printed, _ = masktas(*flags, "--tflops", 1)
    assert "The network is the costliest within the budget;" in printed


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--supervised",), "leave out --supervised"),
        (("--segment",), "give one"),
        (("--from", "."), "give one"),
        (("--architecture", "uniform:16by2"), "is no network"),
    ],
)
def test_a_plan_of_one_network_alone_says_what_does_not_go_with_it(
    world: World, masktas: Call, more: tuple[str, ...], said: str
) -> None:
    flags = ("plan", "--num-images", 400, "--config", world.recipe, "--distill", "--tflops", 1)
    code, _, error = masktas(*flags, *more)
    assert code == 2
    assert said in error
    world.recipe.with_name("long.toml").write_text(
        world.recipe.read_text() + '\n[distill]\nas_costly_as = "runs/small"\n'
    )
    flags = ("plan", "--num-images", 400, "--config", world.recipe.with_name("long.toml"))
    code, _, error = masktas(*flags, "--distill", "--tflops", 1)
    assert code == 2
    assert "as_costly_as" in error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--architecture", "uniform:16by2"), "is no network"),
        (("--architecture", "uniform:16x2x1x2", "--as-costly-as", "nowhere"), "neither a run"),
        (
            ("--architecture", "uniform:16x2", "--as-costly-as", ".", "--epochs", 1),
            "leave one of them out",
        ),
    ],
)
def test_networks_and_lengths_that_are_none_are_refused(
    distilled: Path, masktas: Call, flags: tuple[object, ...], said: str
) -> None:
    code, _, error = masktas("distill", "--name", "bad", *flags, "--out", distilled)
    assert code == 2
    assert said in error
    assert not (distilled / "distill/bad").exists()


def test_a_baseline_without_a_search_is_refused(
    distilled: Path, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    shutil.copytree(distilled, out)
    shutil.rmtree(out / "search")
    code, _, error = masktas("distill", "--name", "house", "--architecture", "house", "--out", out)
    assert code == 2
    assert "the search stage is missing" in error
