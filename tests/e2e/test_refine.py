"""Refinement through the command line: rounds, results, resume, processes, fine-tuning."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import masktas as package
from masktas.artifacts import Run
from masktas.cli import main
from masktas.files import file_digest, read_lines
from masktas.space import Architecture
from masktas.stages.common.load import load_supernet
from worlds import World, count_lines, ended, manifest, started, until

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
RANDOM = ("random-1", "random-2")


@pytest.fixture(scope="module")
def searched(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as the search."""
    out = tmp_path_factory.mktemp("searched") / "run"
    shape = ("--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--depth", 2,
             "--num-heads", 2)  # fmt: skip
    for tokens in (
        ("teacher", world.images, *shape, "--epochs", 1),
        ("supernet", "--epochs", 1),
        ("search", "--generations", 2),
    ):
        call(*tokens, "--out", out, "--config", world.recipe)
    return out


def call(*tokens: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([*map(str, tokens), "--quiet"])
    assert end.value.code == 0


def command(world: World, out: Path) -> tuple[object, ...]:
    return ("refine", "--out", out, "--config", world.recipe, "--baselines", "--lr", 3e-2)


def copy(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


@pytest.fixture(scope="module")
def refined(searched: Path, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a refinement of three rounds, baselines included."""
    out = copy(searched, tmp_path_factory.mktemp("refined") / "run")
    call(*command(world, out))
    return out


def results(run: Path) -> dict[str, str]:
    """Return the digests of all files that depend on the seed only, by name."""
    folder = run / "refine/main"
    kinds = ("rounds.jsonl", "metrics.jsonl", "architecture.json", "weights.safetensors")
    return {
        str(path.relative_to(folder)): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.name in kinds
    }


def test_half_leaves_after_each_round_and_baselines_stay(refined: Path) -> None:
    found = manifest(refined / "refine/main")
    assert found["rounds"] == read_lines(refined / "refine/main/rounds.jsonl")
    of_rounds = [[one["name"] for one in record["members"]] for record in found["rounds"]]
    candidates = [[n for n in names if n.startswith("candidate")] for names in of_rounds]
    assert len(candidates[0]) == 4
    assert len(candidates[0]) > len(candidates[1]) >= len(candidates[2])
    for names in of_rounds:
        assert {one["name"] for one in found["baselines"].values()} <= set(names)
    for record, following in zip(found["rounds"], of_rounds[1:], strict=False):
        assert sorted(record["stay"]) == sorted(following)
    assert [record["pixels"] for record in found["rounds"]] == [False, False, True]
    for one in found["rounds"][0]["members"]:
        assert (one["score"] is None) is one["name"].startswith("random")
    assert not found["winner"]["name"].startswith("random")
    assert found["winner"] == found["top"][0]
    names = ("house", "uniform", "best-uniform", *RANDOM)
    there = {name for name in names if (refined / f"search/main/{name}.json").exists()}
    assert set(found["baselines"]) == there > set(RANDOM)
    assert {*found["cohort"]} == {*of_rounds[0]}
    assert found["cohort"][found["winner"]["name"]]["rating"] == found["winner"]["rating"]
    assert found["cost"]["images"] == 3 * 8 * 16
    assert found["cost"]["flops"] == sum(record["cost"]["flops"] for record in found["rounds"])


def test_batches_and_masks_are_those_of_the_supernet_where_none_are_set(refined: Path) -> None:
    mine, its = (manifest(refined / stage)["settings"]["settings"]
                 for stage in ("refine/main", "supernet"))  # fmt: skip
    for name in ("batch_size", "crop_scale", "flip", "color", "mask_ratio"):
        assert mine[name] == its[name], name
    assert (mine["lr"], its["lr"]) == (3e-2, 1e-3)


def test_networks_are_written_with_their_refined_weights(refined: Path) -> None:
    folder = refined / "refine/main"
    found, shared = manifest(folder), load_supernet(Run(refined))
    for name, entry in {".": found["winner"], **found["baselines"]}.items():
        network = package.load(folder / name)
        its = network.architecture.replace(pool="cls")  # features are means of the patches
        assert its == Architecture.from_dict(entry["architecture"])
        start = shared.extract(network.architecture).state_dict()
        moved = [not torch.equal(one, start[key]) for key, one in network.state_dict().items()
                 if not key.startswith("head")]  # fmt: skip
        assert all(moved)
        assert not network.head.weight.any()
    assert [path.name for path in folder.glob("top-*")] == ["top-2"] * (len(found["top"]) > 1)
    for leftover in ("checkpoints", "*.tmp"):
        assert not list(folder.rglob(leftover))


def test_metrics_name_every_member_and_their_means(refined: Path) -> None:
    found = manifest(refined / "refine/main")
    for number, record in enumerate(found["rounds"], start=1):
        lines = read_lines(refined / f"refine/main/round-{number}/metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(1, 9))
        loss = "loss" if record["pixels"] else "feature_loss"
        for one in record["members"]:
            mean = np.mean([line[f"{one['name']}/{loss}"] for line in lines])
            assert one["training_loss"] == pytest.approx(mean)
        for line in lines:
            of_members = [line[f"{one['name']}/{loss}"] for one in record["members"]]
            assert line[loss] == pytest.approx(np.mean(of_members))


def test_a_member_is_what_it_is_in_a_smaller_cohort(
    searched: Path, world: World, tmp_path: Path
) -> None:
    """The search's winner, with others beside it or with the uniform network only."""
    runs = [copy(searched, tmp_path / name) for name in ("many", "one")]
    flags = ("--rounds", "1", "--pixel-rounds", 0, "--lr", 3e-2)
    for run, count in zip(runs, (4, 1), strict=True):
        call("refine", "--out", run, "--config", world.recipe, "--cohort", count, *flags)
    lines = [read_lines(run / "refine/main/round-1/metrics.jsonl") for run in runs]
    for mine, its in zip(*lines, strict=True):
        assert len(mine) > len(its)
        assert mine["candidate-1/feature_loss"] == its["candidate-1/feature_loss"]


@pytest.mark.parametrize(("round_", "lines"), [(1, 3), pytest.param(3, 7, marks=pytest.mark.slow)])
def test_killed_in_a_round_it_resumes_to_identical_files(
    searched: Path, refined: Path, world: World, tmp_path: Path, masktas: Call, round_: int,
    lines: int,
) -> None:  # fmt: skip
    out = copy(searched, tmp_path / "run")
    log = out / f"refine/main/round-{round_}/metrics.jsonl"
    with started(*command(world, out)) as process:
        until(lambda: count_lines(log) >= lines, process)
        process.send_signal(signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
    assert not (out / "refine/main/manifest.json").exists()
    code, _, said = masktas(*command(world, out))
    assert code == 0
    assert "Resuming" in said
    assert results(out) == results(refined)
    assert not list((out / "refine").rglob("checkpoints"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "round_"), [("weights", 3), ("journal", 1), ("tidy", 1), ("manifest", 3)]
)
def test_killed_between_rounds_it_resumes_to_identical_files(
    searched: Path, refined: Path, world: World, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, file: str, round_: int,
) -> None:  # fmt: skip
    """Whatever was written last: the weights of a round, the journal, the results."""
    out = copy(searched, tmp_path / "run")
    where = {
        "weights": "masktas.stages.refine.runner.append_lines",
        "journal": "masktas.stages.refine.runner.RoundRunner._tidy",
        "tidy": "masktas.stages.refine.runner.RoundRunner._students",
        "manifest": "masktas.artifacts.Stage.finish",
    }[file]
    module, _, name = where.rpartition(".")
    owner = sys.modules.get(module) or getattr(
        sys.modules[module.rpartition(".")[0]], module.rpartition(".")[2]
    )
    original = getattr(owner, name)

    class Killed(BaseException):
        pass

    def kill(*given: Any, **named: Any) -> Any:
        if count_lines(out / "refine/main/rounds.jsonl") >= round_ - (file == "weights"):
            raise Killed
        return original(*given, **named)

    monkeypatch.setattr(owner, name, kill)
    with pytest.raises(Killed):
        main([*map(str, command(world, out)), "--quiet"])
    monkeypatch.undo()
    assert not (out / "refine/main/manifest.json").exists()
    call(*command(world, out))
    assert results(out) == results(refined)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    searched: Path, refined: Path, world: World, tmp_path: Path
) -> None:
    out = copy(searched, tmp_path / "run")
    with started(*command(world, out), processes=2, errors=tmp_path / "said") as job:
        assert ended(job) == 0, (tmp_path / "said").read_text()
    one, two = (manifest(run / "refine/main") for run in (refined, out))
    assert one["winner"]["name"] == two["winner"]["name"]
    assert two["cost"]["processes"] == 2
    for mine, its in zip(one["rounds"], two["rounds"], strict=True):
        assert mine["stay"] == its["stay"]
        for entry, other in zip(mine["members"], its["members"], strict=True):
            assert entry["name"] == other["name"]
            assert entry["feature_loss"] == pytest.approx(other["feature_loss"], rel=1e-5)
    weights = (load_file(run / "refine/main/weights.safetensors") for run in (refined, out))
    mine, its = weights
    for name, tensor in mine.items():
        if not name.endswith("qkv.bias"):  # of keys, which no loss depends on
            np.testing.assert_allclose(tensor, its[name], atol=1e-5, err_msg=name)


def test_fine_tuning_starts_from_the_refined_weights(
    refined: Path, world: World, masktas: Call
) -> None:
    common = ("--out", refined, "--config", world.recipe, "--epochs", 1)
    weights = refined / "refine/main/weights.safetensors"
    assert masktas("finetune", *common)[0] == 0
    tuned = manifest(refined / "finetune/main")
    assert tuned["parents"]["weights"]["sha256"] == file_digest(weights)
    winner = manifest(refined / "refine/main")["winner"]["architecture"]
    assert tuned["settings"]["architecture"]["num_heads"] == winner["num_heads"]
    lines = read_lines(refined / "finetune/main/metrics.jsonl")
    uniform = refined / "search/main/uniform.json"  # beside the weights of another network
    assert masktas("finetune", *common, "--name", "slice", "--architecture", uniform)[0] == 0
    parents = manifest(refined / "finetune/slice")["parents"]
    assert set(parents) == {"architecture", "supernet"}
    others = read_lines(refined / "finetune/slice/metrics.jsonl")
    assert lines[0]["grad_norm"] != others[0]["grad_norm"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--name", "none"), "search/none: the search stage is missing"),
        (("--rounds", "1,0"), "give the epochs of each round between commas"),
        (("--mask-ratio", "0.99"), "leaves 0 of 16 patches visible"),
        (("--batch-size", "5000"), "choose a smaller --batch-size"),
    ],
)
def test_what_cannot_be_refined_is_refused(
    searched: Path, world: World, masktas: Call, flags: tuple[str, ...], words: str
) -> None:
    code, _, said = masktas("refine", "--out", searched, "--config", world.recipe, *flags)
    assert code == 2
    assert words in said


def test_show_and_json_tell_the_winner(refined: Path, world: World, masktas: Call) -> None:
    code, out, _ = masktas("show", refined, "--json")
    stages = {one["stage"]: one for one in json.loads(out)["stages"]}
    found = manifest(refined / "refine/main")
    assert code == 0
    assert stages["refine/main"]["network"] == found["winner"]["name"]
    assert stages["refine/main"]["params"] == found["winner"]["params"]
    code, out, said = masktas(*command(world, refined), "--json")
    assert code == 0
    assert json.loads(out)["winner"] == found["winner"]
    assert "nothing to do" in said
    code, _, said = masktas(*command(world, refined))
    assert "Refined: " in said
    assert found["winner"]["name"] in said


def test_plan_counts_the_rounds(world: World, masktas: Call) -> None:
    flags = ("plan", "--num-images", 400, "--config", world.recipe, "--tflops", 1, "--json")
    stages = [json.loads(masktas(*flags, *more)[1]) for more in ((), ("--no-refine",))]
    names = [[one["stage"] for one in found] for found in stages]
    assert names == [
        ["teacher", "supernet", "search", "refine", "finetune"],
        ["teacher", "supernet", "search", "finetune"],
    ]
    planned = {one["stage"]: one for one in stages[0]}
    steps = round(400 * 0.55) // 16
    assert planned["refine"]["images"] == 3 * steps * 16
    assert planned["refine"]["flops"] / 3e11 == pytest.approx(planned["refine"]["seconds"])
    assert planned["refine"]["flops"] > 0
