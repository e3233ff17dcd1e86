"""Two processes at one job, started by torchrun: the same results, and the same promises.

The undisturbed run is started by torchrun itself, the others by its agent, whose processes are
forked: starting them would take most of the time. One run is disturbed again and again on its way:
killed, terminated, stopped by the clock and restarted, and still has to end as the undisturbed one.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from masktas.files import file_digest
from searches import entries
from worlds import TORCHRUN, World, count_lines, ended, manifest, started, until, worker

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc"),
]
Call = Callable[..., tuple[int, str, str]]
JOB = (*TORCHRUN, "--nproc-per-node", 2)
# 13 images: 6 for one process, 7 for the other. A high rate, so that a wrong gradient would show.
FLAGS = ("--batch-size", 13, "--epochs", 2)
TRAINED = ("teacher", "supernet", "finetune/main")
LOST = "another of the 2 processes has ended"


@pytest.fixture(scope="module")
def hot(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe at a high learning rate."""
    recipe = tmp_path_factory.mktemp("hot") / "recipe.toml"
    text = world.recipe.read_text().replace("\nlr = 1e-2", "")
    recipe.write_text(text.replace("\nepochs = 4", "\nlr = 1e-2"))
    return recipe


def command(world: World, hot: Path, out: Path) -> tuple[object, ...]:
    return ("run", world.images, "--out", out, "--config", hot, *FLAGS)


def work(*tokens: object, said: Path) -> tuple[int, str]:
    """Run a job to its end; return its exit code and what it said."""
    with started(*tokens, processes=2, errors=said) as job:
        code = ended(job)
    return code, said.read_text()


@pytest.fixture(scope="module")
def undisturbed(
    world: World, hot: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A whole run of two processes, and what it said."""
    folder = tmp_path_factory.mktemp("two")
    printed = folder / "printed"
    with started(*command(world, hot, folder / "run"), "--accumulate", 2, "--json",
                 launcher=JOB, errors=folder / "said", output=printed) as job:  # fmt: skip
        assert ended(job) == 0, (folder / "said").read_text()
    assert json.loads(printed.read_text())["teacher"]["stage"] == "teacher", "printed once"
    return folder / "run", folder / "said"


@pytest.fixture(scope="module")
def alone(world: World, hot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run of one process."""
    folder = tmp_path_factory.mktemp("one")
    with started(*command(world, hot, folder / "run"), errors=folder / "said") as process:
        assert ended(process) == 0, (folder / "said").read_text()
    return folder / "run"


def assert_close(one: Path, two: Path, stages: tuple[str, ...] = TRAINED) -> None:
    """Compare metrics and weights of two runs.

    Biases of keys are left out: the loss does not depend on them, so their gradients are nothing
    but rounding, which AdamW scales up.
    """
    for stage in stages:
        here, there = (entries(run / stage / "metrics.jsonl") for run in (one, two))
        assert [line["step"] for line in here] == [line["step"] for line in there]
        for mine, other in zip(here, there, strict=True):
            assert mine.keys() == other.keys()
            for name in mine:
                assert math.isclose(mine[name], other[name], rel_tol=1e-5, abs_tol=1e-7), name
        files = ["weights.safetensors", *(["decoder.safetensors"] if stage == "teacher" else [])]
        for file in files:
            weights, others = (load_file(run / stage / file) for run in (one, two))
            assert weights.keys() == others.keys()
            for name, tensor in weights.items():
                apart = np.abs(tensor - others[name])
                if name.endswith("qkv.bias"):
                    head_dim = 32 if "decoder" in f"{file}{name}" else 8
                    apart = apart.reshape(-1, 3, head_dim)[:, [0, 2]]  # [head][q, k, v][channel]
                assert apart.max() <= 1e-5, f"{stage} {name}"


def assert_identical(one: Path, two: Path) -> None:
    for stage in (*TRAINED, "search/main"):
        log = "history.jsonl" if stage.startswith("search") else "metrics.jsonl"
        for name in ("weights.safetensors", log):
            same = file_digest(one / stage / name) == file_digest(two / stage / name)
            assert same, f"{stage}/{name}"


@pytest.mark.slow
def test_two_learn_what_one_learns(alone: Path, undisturbed: tuple[Path, Path]) -> None:
    two, said = undisturbed
    assert_close(alone, two)
    for stage in TRAINED:
        steps = [line["step"] for line in entries(two / stage / "metrics.jsonl")]
        assert len(steps) >= 20
        assert steps == list(range(1, len(steps) + 1)), "written once"
        assert len(list((two / stage / "tensorboard").iterdir())) == 1
        assert manifest(two / stage)["cost"]["processes"] == 2
    text = said.read_text()
    for words in ("1/5 teacher", "decoding: 240/240", "2 processes", "networks rated", "Report: "):
        assert text.count(words) == (6 if words == "2 processes" else 1), words
    assert not [path.name for path in two.rglob("*.tmp")]


@pytest.mark.slow
def test_two_find_what_one_finds(alone: Path, hot: Path, tmp_path: Path) -> None:
    run = shutil.copytree(alone, tmp_path / "run")
    shutil.rmtree(run / "search")  # its ratings would be reused
    code, said = work("search", "--out", run, "--name", "two", "--config", hot,
                      said=tmp_path / "said")  # fmt: skip
    assert code == 0, said
    folders = (alone / "search/main", run / "search/two")
    here, there = (entries(folder / "history.jsonl") for folder in folders)
    assert len(here) == len(there) == manifest(folders[0])["rated"]
    for mine, other in zip(here, there, strict=True):
        for number in ("rating", "error"):
            assert abs(mine.pop(number) - other.pop(number)) <= 1e-6
        assert mine == other
    one, two = map(manifest, folders)
    for kind in ("winner", "uniform"):
        assert one[kind]["architecture"] == two[kind]["architecture"]
    assert [r["architecture"] for r in one["random"]] == [r["architecture"] for r in two["random"]]
    weights = (file_digest(folder / "weights.safetensors") for folder in folders)
    assert len(set(weights)) == 1 or one["winner"]["rating"] != two["winner"]["rating"]


@pytest.mark.slow
def test_killed_terminated_stopped_and_restarted_it_ends_the_same(
    world: World, hot: Path, undisturbed: tuple[Path, Path], alone: Path, tmp_path: Path,
    masktas: Call,
) -> None:  # fmt: skip
    out, said = tmp_path / "run", tmp_path / "said"
    tokens = (*command(world, hot, out), "--accumulate", 2)

    with started(*tokens, processes=2, errors=said) as job:  # a process dies
        until(lambda: count_lines(out / "teacher/metrics.jsonl") >= 4, job)
        os.kill(worker(job, 1), signal.SIGKILL)
        assert ended(job) != 0
    assert LOST in said.read_text()
    assert "Run the same command again" in said.read_text()
    assert list((out / "teacher/checkpoints").iterdir())
    one = shutil.copytree(out, tmp_path / "one")

    with started(*tokens, processes=2, errors=said) as job:  # a queue ends the job
        until(lambda: count_lines(out / "supernet/metrics.jsonl") >= 4, job)
        job.terminate()
        assert ended(job) != 0
    text = said.read_text()
    assert text.count("Resuming from step") == 1
    assert text.count("masktas: Stopped at step ") == 1, "told once, at a checkpoint"
    assert "on SIGTERM. Nothing is lost" in text
    done = len(entries(out / "supernet/metrics.jsonl"))
    assert (out / f"supernet/checkpoints/step-{done:09d}.safetensors").exists()

    with started(*tokens, processes=2, restarts=1, errors=said) as job:  # it starts again by itself
        until(lambda: count_lines(out / "finetune/main/metrics.jsonl") >= 4, job)
        os.kill(worker(job, 0), signal.SIGKILL)
        assert ended(job) == 0, said.read_text()
    assert LOST in said.read_text()
    assert_identical(undisturbed[0], out)
    assert not [path.name for path in out.rglob("*.tmp")]

    code, _, text = masktas(*command(world, hot, one))  # and two processes' work by one
    assert code == 0
    assert "Resuming from step" in text
    assert_close(alone, one)


@pytest.mark.slow
def test_one_goes_on_as_two_and_two_as_one(
    world: World, hot: Path, alone: Path, tmp_path: Path, masktas: Call
) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    tokens = command(world, hot, out)
    code, _, text = masktas(*tokens, "--max-time", "0.2s")
    assert code == 75, text
    gc.collect()  # the folder is locked as long as this process holds the stage's objects
    code, text = work(*tokens, "--max-time", "1s", said=said)
    assert code != 0
    assert text.count("at the end of --max-time. Nothing is lost") == 1, text
    assert LOST not in text
    code, _, text = masktas(*tokens)
    assert code == 0
    assert_close(alone, out)


@pytest.mark.slow
def test_a_restarted_job_keeps_what_it_has_overwritten_with(
    world: World, hot: Path, alone: Path, undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    out, said = shutil.copytree(alone, tmp_path / "run"), tmp_path / "said"
    tokens = (*command(world, hot, out), "--seed", 5, "--overwrite")
    before = file_digest(out / "supernet/weights.safetensors")
    with started(*tokens, processes=2, restarts=1, errors=said) as job:
        checkpoints = out / "teacher/checkpoints"
        until(lambda: checkpoints.exists() and len(list(checkpoints.glob("step-*"))) == 2, job)
        os.kill(worker(job, 1), signal.SIGKILL)
        assert ended(job) == 0, said.read_text()
    text = said.read_text()
    assert text.count("Resuming from step") == 1, text
    assert "nothing to do" not in text
    assert {manifest(out / stage)["settings"]["seed"] for stage in TRAINED} == {5}
    assert file_digest(out / "supernet/weights.safetensors") != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("{missing}",), "there is no such file or folder"),
        (("{images}", "--batch-size", "1"), "choose a larger --batch-size or fewer of them"),
        (("{images}", "--seed", "5"), "was made with other settings"),
    ],
)
def test_what_is_wrong_is_told_once(
    flags: tuple[str, ...], words: str, world: World, hot: Path, alone: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(alone, tmp_path / "run")
    if "--batch-size" in flags:
        shutil.rmtree(out / "teacher")
    shape = ("--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--num-heads", 4)
    places = {"missing": tmp_path / "missing", "images": world.images}
    code, said = work(
        "teacher", *(flag.format(**places) for flag in flags), "--out", out, *shape,
        "--config", hot, said=tmp_path / "said",
    )  # fmt: skip
    assert code != 0
    ours = [line for line in said.splitlines() if line.startswith("masktas") and ": " in line]
    assert len(ours) == 1, said
    assert words in ours[0]
    assert not re.search(r'File ".*src/masktas/.*", line', said), "no traceback but torchrun's own"
