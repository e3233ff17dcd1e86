"""A space of two patch sizes by the command line: a run, killed and resumed, two processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from masktas.files import file_digest, read_lines
from masktas.space import Architecture
from worlds import SPACE, World, count_lines, ended, manifest, started, until

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
FLAGS = ("--epochs", 2, "--max-macs", "400K", "--max-params", "1M")


@pytest.fixture(scope="module")
def two_sizes(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space of patches of 2 and 4 pixels."""
    path = tmp_path_factory.mktemp("space") / "space.json"
    path.write_text(json.dumps(SPACE | {"name": "two-sizes", "patch_size": [4, 2]}))
    return path


@pytest.fixture(scope="module")
def whole(world: World, two_sizes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of every stage."""
    folder = tmp_path_factory.mktemp("patch-sizes")
    with started("run", world.images, "--out", folder / "run", "--config", world.recipe,
                 "--space", two_sizes, *FLAGS, errors=folder / "said") as process:  # fmt: skip
        assert ended(process) == 0, (folder / "said").read_text()
    return folder / "run"


def supernet(world: World, run: Path, two_sizes: Path) -> tuple[object, ...]:
    """Return the command that trains the supernet of a copy of the run again."""
    shutil.rmtree(run / "supernet")
    claimed = ("--sampler", "uniform")
    return ("supernet", "--out", run, "--config", world.recipe, "--space", two_sizes,
            "--epochs", 2, *claimed)  # fmt: skip


@pytest.fixture(scope="module")
def alone(
    world: World, whole: Path, two_sizes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A supernet that one process trains undisturbed."""
    run = shutil.copytree(whole, tmp_path_factory.mktemp("alone") / "run")
    with started(*supernet(world, run, two_sizes)) as process:
        assert ended(process) == 0
    return run


def test_a_run_holds_networks_of_both_sizes(whole: Path) -> None:
    weights = load_file(whole / "supernet/weights.safetensors")
    assert weights["encoder.patch_embed.weight"].shape == (24, 12)
    assert weights["patches.4.patch_embed.weight"].shape == (24, 48)
    history = read_lines(whole / "search/main/history.jsonl")
    sizes = {one["architecture"]["patch_size"] for one in history}
    assert sizes == {2, 4}
    winner = Architecture.load(whole / "search/main/architecture.json")
    own = load_file(whole / "search/main/weights.safetensors")
    prefix = "encoder." if winner.patch_size == 2 else f"patches.{winner.patch_size}."
    stored = weights[f"{prefix}pos_embed"][..., : winner.embed_dim]
    np.testing.assert_array_equal(own["pos_embed"], stored)
    cohort = manifest(whole / "refine/main")["cohort"].values()
    assert {one["architecture"]["patch_size"] for one in cohort} == {2, 4}
    for stage in ("refine/main", "finetune/main"):
        assert Architecture.load(whole / stage / "architecture.json").patch_size in sizes
    assert 0 <= manifest(whole / "finetune/main")["test"]["top1"] <= 1
    assert (whole / "supernet/reconstructions.png").exists()
    assert (whole / "report.html").exists()


@pytest.mark.slow
def test_a_killed_supernet_of_two_sizes_ends_as_an_undisturbed_one(
    world: World, alone: Path, whole: Path, two_sizes: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    command = supernet(world, run, two_sizes)
    with started(*command) as process:
        until(lambda: count_lines(run / "supernet/metrics.jsonl") >= 7, process)
        os.kill(process.pid, signal.SIGKILL)
        ended(process)
    with started(*command) as process:
        assert ended(process) == 0
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert file_digest(run / "supernet" / name) == file_digest(alone / "supernet" / name), name


@pytest.mark.slow
def test_two_processes_train_the_supernet_that_one_trains(
    world: World, alone: Path, whole: Path, two_sizes: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    with started(*supernet(world, run, two_sizes), processes=2, errors=tmp_path / "said") as job:
        assert ended(job) == 0, (tmp_path / "said").read_text()
    lines = (read_lines(one / "supernet/metrics.jsonl") for one in (run, alone))
    for mine, other in zip(*lines, strict=True):
        assert math.isclose(mine["loss"], other["loss"], rel_tol=1e-4), mine["step"]


def test_patch_sizes_that_do_not_go_together_are_refused(
    world: World, masktas: Call, tmp_path: Path
) -> None:
    space = tmp_path / "space.json"
    space.write_text(json.dumps(SPACE | {"patch_size": [4, 8]}))
    code, _, said = masktas("run", world.images, "--out", tmp_path / "run", "--space", space,
                            "--max-macs", "400K")  # fmt: skip
    assert code == 2
    assert "fewer than 16: choose patch sizes from 1, 2, 4" in said
    assert not (tmp_path / "run").exists()
