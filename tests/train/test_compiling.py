"""`--compile`: measured on CUDA, off on a CPU, kept by a stage, refused for too many shapes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from masktas.artifacts import Stage
from masktas.config import RuntimeSettings
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.nn.compiled import MOST_SHAPES, CompiledBlocks
from masktas.space import SearchSpace
from masktas.stages.common.stage import Context
from masktas.train import compiling, measured
from masktas.train.compiling import CompiledTimes, compiled_times, measure
from masktas.train.measured import FASTER
from masktas.train.runtime import Runtime

CPU = torch.device("cpu")
TINY, WIDE = SearchSpace.load("tiny"), SearchSpace.load("wide-micro")


@pytest.mark.parametrize(
    ("plain", "compiled", "on"),
    [(FASTER, 1.0, True), (FASTER, 1.01, False), (3.0, 1.0, True), (1.0, math.inf, False),
     (math.inf, math.inf, False)],
)  # fmt: skip
def test_blocks_are_compiled_if_that_is_clearly_faster(plain, compiled, on):
    times = CompiledTimes(plain, compiled)
    assert times.faster is on
    word = "off: torch.compile does not work" if compiled == math.inf else "on: " if on else "off: "
    assert str(times).startswith(f"Compile {word}")


def test_a_step_is_timed_plain_and_compiled_in_turns(monkeypatch):
    """The clock moves only within steps: 3 s plain, 2 s compiled; the first are not timed."""
    now, took = 0.0, []

    def make(device, *, bf16):
        assert (device, bf16) == (CPU, True)

        def step(apply):
            nonlocal now
            took.append(apply)
            now += 2.0 if isinstance(apply, CompiledBlocks) else 3.0

        return step

    monkeypatch.setattr(compiling, "_step", make)
    found = measure(CPU, bf16=True, clock=lambda: now)
    assert (found.plain, found.compiled) == (3.0, 2.0)
    assert [isinstance(one, CompiledBlocks) for one in took] == [False, True] * 4


@pytest.mark.parametrize("bf16", [False, True])
def test_the_step_trains_a_block_and_draws_nothing(bf16: bool, monkeypatch):
    monkeypatch.setattr(compiling, "TOKENS", (2, 5, compiling.WIDTH))
    before, seen = torch.get_rng_state(), []

    def apply(block, x, branches):
        y = block(x, branches)
        seen.append((tuple(x.shape), torch.is_autocast_enabled("cpu"), y.requires_grad))
        return y

    compiling._step(CPU, bf16=bf16)(apply)
    assert seen == [((2, 5, 384), bf16, True)]
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_compiler_nothing_is_compiled():
    def fail(graph, inputs):
        raise ValueError("no compiler")

    found = measure(CPU, bf16=False, blocks=CompiledBlocks(fail))  # type: ignore[arg-type]
    assert not found.faster


def test_a_device_is_measured_once(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device}")
    asked = []

    def measure(device, *, bf16):
        asked.append((device, bf16))
        return CompiledTimes(2.0, 1.0)

    monkeypatch.setattr(compiling, "measure", measure)
    for device, bf16 in ((0, True), (0, True), (0, False), (1, True), (0, True)):
        assert compiled_times(device, bf16=bf16) == CompiledTimes(2.0, 1.0)  # type: ignore[arg-type]
    assert asked == [(0, True), (0, False), (1, True)]
    monkeypatch.setattr(compiling, "measure", lambda *_, **__: CompiledTimes(math.inf, math.inf))
    assert not compiled_times(2, bf16=True).faster  # type: ignore[arg-type]
    assert len(list((tmp_path / "masktas").iterdir())) == 3  # what is no number is not kept


def test_ways_are_timed_at_least_three_times():
    now, done = 0.0, 0

    def step() -> None:
        nonlocal now, done
        now, done = now + 5 - done, done + 1

    assert measured.best_seconds({"one": step}, 0.0, lambda: now) == {"one": 2.0}
    assert done == 1 + measured.LEAST_TURNS


class Chosen:
    """What a stage in a folder compiles, on a machine where it is faster, or not."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage, self.folder, self.faster = Stage("teacher", folder / "teacher"), folder, True
        self.asked = 0
        monkeypatch.setattr(Runtime, "compiled_is_faster", lambda _: self._measure())

    def _measure(self) -> tuple[bool, str]:
        self.asked += 1
        return self.faster, "as measured"

    def __call__(
        self, asked: str = "auto", space: SearchSpace | None = None, *, overwrite: bool = False
    ) -> bool:
        settings = RuntimeSettings(device="cpu", precision="fp32", compile=asked)
        context = Context(self.folder, settings, Console(), overwrite=overwrite)
        context.compile_blocks(self.stage, space)
        assert (context.runtime.blocks is not None) == isinstance(
            context.runtime.blocks, CompiledBlocks
        )
        return context.runtime.blocks is not None

    def start(self, **claim: str) -> None:
        self.stage.folder.mkdir(parents=True, exist_ok=True)
        (self.stage.folder / "settings.json").write_text(json.dumps(claim))
        (self.stage.folder / "metrics.jsonl").write_text("")


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chosen:
    return Chosen(tmp_path, monkeypatch)


def test_what_is_asked_for_is_done_and_auto_measures(chosen: Chosen, capsys):
    assert chosen("on")
    assert not chosen("off")
    assert chosen.asked == 0
    assert chosen()
    chosen.faster = False
    assert not chosen()
    assert chosen.asked == 2
    assert capsys.readouterr().err.count("as measured") == 2


def test_a_stage_is_resumed_as_it_was_started(chosen: Chosen):
    chosen.start(compile="on")
    chosen.faster = False
    assert chosen()
    chosen.start()  # as plain ones and those of earlier versions are
    chosen.faster = True
    assert not chosen()
    assert chosen.asked == 0
    assert chosen(overwrite=True)
    assert chosen("on")  # as asked, which the claim refuses


def test_a_space_of_too_many_blocks_is_not_compiled(chosen: Chosen, capsys):
    assert TINY.num_block_shapes <= MOST_SHAPES < WIDE.num_block_shapes
    assert chosen("on", TINY)
    assert chosen("auto", TINY)
    assert not chosen("off", WIDE)
    assert not chosen("auto", WIDE)
    assert "space wide-micro have 672 shapes, and at most 64" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"wide-micro have 672 shapes.*: leave out --compile on"):
        chosen("on", WIDE)


def test_on_a_cpu_nothing_is_measured():
    assert Runtime(CPU, bf16=False).compiled_is_faster() == (False, "")


@pytest.mark.parametrize("name", ["tiny", "small", "base", "micro", "wide-micro"])
def test_few_networks_have_all_blocks_of_a_space(name: str):
    space = SearchSpace.load(name)
    networks = list(space.with_all_blocks())
    found = {
        (one.patch_size, one.embed_dim, heads, hidden)
        for one in networks
        for heads, hidden in zip(one.num_heads, one.mlp_dim, strict=True)
    }
    assert len(found) == space.num_block_shapes
    assert all(space.check(one) is None for one in networks)
    least = space.num_block_shapes / max(space.depth)
    assert least <= len(networks) <= least + len(space.patch_size) * len(space.embed_dim)
