"""Stages that compile blocks: the same results, a claim that says so, resumed as they were started.

Dynamo's backend `eager` traces blocks and runs the same operations, so results are equal bit for
bit; inductor, which is what users get, is slow to compile and tried once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from masktas.files import file_digest, read_json
from masktas.nn.compiled import CompiledBlocks
from masktas.stages.common import stage
from masktas.train.step import train_step
from worlds import World

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
TEACHER = (
    "--patch-size", 4, "--image-size", 16, "--embed-dim", 16, "--depth", 2, "--num-heads", 2,
)  # fmt: skip


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[CompiledBlocks]:
    """Blocks compiled without inductor, as the stages make them."""
    torch._dynamo.reset()
    blocks: list[CompiledBlocks] = []

    def make() -> CompiledBlocks:
        blocks.append(CompiledBlocks("eager"))
        return blocks[-1]

    monkeypatch.setattr(stage, "CompiledBlocks", make)
    return blocks


def few_shapes(world: World) -> Path:
    path = world.folder / "few.json"
    space = json.loads(world.space.read_text(encoding="utf-8"))
    path.write_text(json.dumps(space | {"embed_dim": [16], "mlp_ratio": [2]}), encoding="utf-8")
    return path


@pytest.mark.slow
def test_stages_train_the_same_networks_with_compiled_blocks(
    world: World, tmp_path: Path, masktas: Call, made: list[CompiledBlocks]
) -> None:
    more = ("--config", world.recipe, "--quiet", "--epochs", 1)
    few = ("--space", few_shapes(world))
    for name, compile in (("plain", "off"), ("compiled", "on")):
        out = tmp_path / name
        common = ("--out", out, *more, "--compile", compile)
        assert masktas("teacher", world.images, *TEACHER, *common)[0] == 0
        assert masktas("supernet", *few, *common)[0] == 0
        assert masktas("search", *common[:-4], "--compile", compile)[0] == 0
        assert masktas("finetune", *common, "--architecture", out / "search/main")[0] == 0
    assert [one.num_graphs > 0 for one in made] == [True] * 3  # a search trains nothing
    assert made[1].num_graphs == 2 + 1 + 1  # 2 shapes of blocks, the decoder's, the teacher's
    for name in ("teacher", "supernet", "search/main", "finetune/main"):
        plain, compiled = tmp_path / "plain" / name, tmp_path / "compiled" / name
        claims = [read_json(folder / "settings.json") for folder in (plain, compiled)]
        wanted = (None, None if name == "search/main" else "on")
        assert tuple(claim.get("compile") for claim in claims) == wanted
        if name != "search/main":
            assert file_digest(plain / "weights.safetensors") == file_digest(
                compiled / "weights.safetensors"
            ), name


@pytest.mark.slow
def test_a_stopped_supernet_is_resumed_with_compiled_blocks(
    world: World,
    tmp_path: Path,
    masktas: Call,
    made: list[CompiledBlocks],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ("--config", world.recipe, "--epochs", 2)
    supernet = ("--space", few_shapes(world), *flags)
    for out in ("whole", "killed"):
        assert masktas("teacher", world.images, *TEACHER, "--out", tmp_path / out, *flags)[0] == 0
    assert masktas("supernet", "--out", tmp_path / "whole", *supernet, "--compile", "on")[0] == 0

    def until_step_3(task: object, step: int, *given: object, **named: object) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return train_step(task, step, *given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("masktas.train.loop.train_step", until_step_3)
        assert masktas("supernet", "--out", tmp_path / "killed", *supernet, "--compile", "on")[0]
    code, _, said = masktas("supernet", "--out", tmp_path / "killed", *supernet, "--compile", "off")
    assert code == 2
    assert "compile" in said
    code, _, said = masktas("supernet", "--out", tmp_path / "killed", *supernet)  # auto
    assert code == 0
    assert "Resuming" in said
    for name in ("weights.safetensors", "metrics.jsonl"):
        whole, killed = (tmp_path / out / "supernet" / name for out in ("whole", "killed"))
        assert file_digest(whole) == file_digest(killed), name


@pytest.mark.slow
def test_a_teacher_by_inductor(world: World, tmp_path: Path, masktas: Call) -> None:
    flags = ("--config", world.recipe, "--epochs", 1, *TEACHER)
    losses = []
    for compile in ("off", "on"):
        out = tmp_path / compile
        code, _, said = masktas("teacher", world.images, "--out", out, *flags, "--compile", compile)
        assert code == 0
        assert ("Blocks are compiled" in said) is (compile == "on")
        lines = (out / "teacher/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([json.loads(line)["pixel_loss"] for line in lines])
    assert losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
