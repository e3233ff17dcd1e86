"""`--precision auto` on a CPU: measured once a machine, and one choice for a whole stage."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from masktas.artifacts import Stage
from masktas.config import RuntimeSettings
from masktas.console import Console
from masktas.stages.common.stage import Context
from masktas.train import precision, runtime
from masktas.train.measured import FASTER
from masktas.train.precision import SECONDS, StepTimes, has_bf16_products, step_times
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime

QUICK, SLOW = StepTimes(fp32=0.03, bf16=0.02), StepTimes(fp32=0.03, bf16=0.029)


class Machine:
    """A machine with products in bf16, whose training step takes given times."""

    def __init__(self, times: StepTimes) -> None:
        self.times, self.measured = times, 0

    def measure(self) -> StepTimes:
        self.measured += 1
        return self.times


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(QUICK)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "has_bf16_products", lambda: True)
    monkeypatch.setattr(precision, "measure", made.measure)
    return made


def auto(ranks: Ranks | None = None) -> Runtime:
    return Runtime.choose("cpu", "auto", ranks=ranks or Ranks())


@pytest.mark.parametrize(
    ("half", "wanted"), [(1.0, "bf16"), (0.99, "bf16"), (1.01, "fp32"), (1.2, "fp32")]
)
def test_bf16_is_chosen_if_it_is_clearly_faster(machine: Machine, half: float, wanted: str):
    machine.times = StepTimes(fp32=FASTER, bf16=half)
    assert auto().precision == wanted
    assert auto().why.startswith(f"Precision {wanted}: a small training step takes ")
    with auto().autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if wanted == "bf16" else torch.float32)


def test_a_machine_is_measured_once(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    assert [auto().precision for _ in range(3)] == ["bf16"] * 3
    assert machine.measured == 1
    machine.times = SLOW
    assert auto().precision == "bf16"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert auto().precision == "fp32"  # other threads are another machine
    assert machine.measured == 2
    monkeypatch.setattr(torch, "__version__", "3.0")
    assert step_times() == SLOW
    assert machine.measured == 3
    monkeypatch.setattr(precision, "processor", lambda: "another")
    assert step_times() == SLOW
    assert machine.measured == 4


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"fp32_seconds": 1}', '{"fp32_seconds": "x", "bf16_seconds": 1}',
     '{"fp32_seconds": NaN, "bf16_seconds": 1}', '{"fp32_seconds": 1, "bf16_seconds": -1}'],
)  # fmt: skip
def test_damaged_times_are_measured_again(machine: Machine, tmp_path: Path, content: str):
    assert step_times() == QUICK
    (path,) = (tmp_path / "cache/masktas").iterdir()
    path.write_text(content)
    assert step_times() == QUICK
    assert machine.measured == 2
    assert json.loads(path.read_text()) == {"fp32_seconds": 0.03, "bf16_seconds": 0.02}


def test_without_a_cache_it_is_measured_each_time(machine: Machine, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert auto().precision == auto().precision == "bf16"
    assert machine.measured == 2


def test_others_and_emulated_products_are_not_measured(machine: Machine, monkeypatch):
    for asked in ("fp32", "bf16"):
        assert Runtime.choose("cpu", asked).precision == asked
    monkeypatch.setattr(runtime, "has_bf16_products", lambda: False)
    assert auto().precision == "fp32"
    assert auto().why == ""
    assert machine.measured == 0


@pytest.mark.parametrize(
    ("known", "kernels", "wanted"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True}, "AVX512", True),
        ({"architecture": "x86_64", "amx_bf16": True}, "AVX512", True),
        ({"architecture": "x86_64", "avx512_bf16": True}, "AVX2", False),
        ({"architecture": "x86_64", "avx512_bf16": False, "avx2": True}, "AVX512", False),
        ({"architecture": "arm64", "bf16": True}, "DEFAULT", True),
        ({"architecture": "arm64", "bf16": False}, "SVE256", False),
    ],
)
def test_torch_tells_which_processors_have_products_in_bf16(known, kernels, wanted, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert has_bf16_products() is wanted
    if known["architecture"] == "x86_64":  # torch before get_capabilities
        monkeypatch.delattr(torch.cpu, "get_capabilities")
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda: known.get("avx512_bf16", False)
        )
        monkeypatch.setattr(
            torch.cpu, "_is_amx_tile_supported", lambda: known.get("amx_bf16", False)
        )
        assert has_bf16_products() is wanted


def test_tests_run_in_fp32_on_every_machine():
    assert not has_bf16_products()


def test_a_step_is_timed_in_both_precisions_in_turns(monkeypatch):
    """The clock moves only within steps: 3 s in fp32, first 5 s, and 2 s in bf16."""
    now, took = 0.0, []
    seconds = {
        torch.float32: iter([9.0, 5.0, *[3.0] * 99]),
        torch.bfloat16: iter([9.0, *[2.0] * 99]),
    }

    def step(dtype: torch.dtype) -> None:
        nonlocal now
        took.append(dtype)
        now += next(seconds[dtype])

    monkeypatch.setattr(precision, "_step", lambda: step)
    assert precision.measure(lambda: now) == StepTimes(fp32=3.0, bf16=2.0)
    assert took == [torch.float32, torch.bfloat16] * 4  # a warm-up and three turns


def test_the_step_trains_in_the_precision_and_draws_nothing():
    before = torch.get_rng_state()
    step, seen = precision._step(), []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: seen.append(x.dtype) or x, lambda x: x
        ):
            step(dtype)
        assert (torch.bfloat16 in seen) is (dtype == torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_measuring_takes_little_time():
    found = precision.measure()
    assert all(0 < one < math.inf for one in (found.fp32, found.bf16))
    assert SECONDS < 1


def test_all_processes_take_what_the_first_chooses(machine: Machine):
    class Other(Ranks):
        """A process that receives what the first one has measured."""

        def first(self, do):
            return json.loads('["bf16", "as measured"]')

    machine.times = SLOW
    chosen = auto(Other(rank=1, size=2))
    assert chosen.precision == "bf16"
    assert machine.measured == 0


@pytest.mark.parametrize("there", ["fp32", "bf16"])
def test_a_stage_is_resumed_in_its_precision(machine: Machine, tmp_path: Path, capsys, there: str):
    stage = Stage("search", tmp_path / "search/main")
    machine.times = QUICK if there == "fp32" else SLOW  # the other one would be chosen
    other = "bf16" if there == "fp32" else "fp32"

    def taken(asked: str = "auto", *, overwrite: bool = False) -> str:
        settings = RuntimeSettings(device="cpu", precision=asked)
        context = Context(tmp_path, settings, Console(), overwrite=overwrite)
        context.keep_precision(stage)
        return context.runtime.precision

    assert taken() == other  # nothing is there
    stage.folder.mkdir(parents=True)
    (stage.folder / "settings.json").write_text(json.dumps({"precision": there}))
    assert taken() == other  # a claim alone is ignored
    (stage.folder / "history.jsonl").write_text("")
    assert taken() == there
    assert f"was started in {there} and stays in it, although {other}" in capsys.readouterr().err
    assert taken(overwrite=True) == other
    assert taken(other) == other  # as asked, which the claim refuses


def test_the_choice_is_said_once(machine: Machine, tmp_path: Path, capsys):
    console = Console()
    for _ in range(2):
        Context(tmp_path, RuntimeSettings(device="cpu"), console)
    assert capsys.readouterr().err.count("Precision bf16: a small training step takes 20 ms") == 1
