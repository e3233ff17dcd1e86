"""benchmarks/gpu.py in small on the CPU: its parts, its checks, and that they can fail."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from masktas.config import AllSettings, SupernetSettings, TeacherSettings
from masktas.train.checkpoint import TrainingState
from masktas.train.optim.sliced_adamw import SlicedAdamW
from masktas.train.runtime import Runtime
from scripts import imported

ROOT = Path(__file__).parents[1]
SETTINGS = AllSettings(
    supernet=SupernetSettings(space="demo"),
    teacher=TeacherSettings(embed_dim=32, depth=1, num_heads=2, decoder_dim=32, decoder_depth=1),
)


@pytest.fixture(scope="module")
def gpu() -> SimpleNamespace:
    """Import the scripts."""
    names = ("gpu", "gpu_rows", "gpu_checks", "gpu_speed", "gpu_plans")
    return SimpleNamespace(**{name: imported(name) for name in names})


@pytest.fixture
def checks(gpu: SimpleNamespace):
    return gpu.gpu_checks.Checks("cpu", SETTINGS)


def test_no_part_is_lost_by_another(gpu: SimpleNamespace) -> None:
    rows = gpu.gpu_rows
    now, seen = 0.0, []

    def part(name: str, run, needs: float = 1.0):
        return rows.Part(name, f"what {name} does", needs, run)

    def fail(left: float):
        raise ZeroDivisionError("a reason\nand more")

    def skip(left: float):
        raise rows.NotRun("no use here")

    def late(left: float):
        nonlocal now
        now = 98.0
        return rows.Finding("1 | 2")

    found = rows.run_parts(
        [
            part("fails", fail), part("skips", skip), part("exceeds", lambda left: rows.Finding(
                f"{left:.0f}", "0", kept=False, numbers={"left": left})),
            part("late", late), part("long", late, 3.0), part("short", late, 2.0),
        ],
        100.0, after_each=seen.append, clock=lambda: now,
    )  # fmt: skip
    assert found == seen
    assert [row.status for row in found] == ["failed", "not run", "failed", "ok", "not run", "ok"]
    assert found[0].result == "ZeroDivisionError: a reason"
    assert found[1].result == "no use here"
    assert found[2].numbers == {"left": 100.0}
    assert found[3].seconds == 98
    assert found[4].result == "2 s were left, and it needs 3"
    lines = rows.table(found).splitlines()
    assert lines[0] == "| part | what | result | limit | status | seconds |"
    assert lines[5] == "| late | what late does | 1 \\| 2 |  | ok | 98 |"


def test_a_part_that_takes_too_long_is_stopped(gpu: SimpleNamespace) -> None:
    rows, done = gpu.gpu_rows, []

    def endless(left: float):
        try:
            time.sleep(60)
        except Exception:  # what a library may do
            done.append("swallowed")

    before = signal.getitimer(signal.ITIMER_REAL)[0]  # pytest's own limit
    parts = [rows.Part(name, "", 0.01, endless) for name in ("first", "second")]
    first, second = rows.run_parts(parts, time.monotonic() + 0.05)
    assert first.status == "failed"
    assert "not done when the time was up" in first.result
    assert second.status == "not run"
    assert not done
    after = signal.getitimer(signal.ITIMER_REAL)[0]
    assert bool(before) == bool(after)
    assert before - 5 <= after <= before


def test_every_recipe_of_the_paper_says_how_it_is_planned(gpu: SimpleNamespace) -> None:
    recipes = [path for path in gpu.gpu.RECIPES.glob("*.toml") if path.name != "cpu.toml"]
    found = {path.stem: gpu.gpu_plans.asked(path) for path in recipes}
    assert len(found) >= 13
    assert found["small-imagenet"].num_images == 1_331_167
    assert found["small-imagenet"].test_share == 0.0376
    assert {name for name, one in found.items() if one.segment} == {"ade20k-base", "ade20k-small"}
    assert {name for name, one in found.items() if one.transfer} == {
        name for name in found if name.startswith("transfer-")
    }
    assert {name for name, one in found.items() if one.supervised} == {
        "figure4-autoformer", "table1-twins",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"cpu\.toml: its header has no"):
        gpu.gpu_plans.asked(gpu.gpu.RECIPES / "cpu.toml")


def test_plans_are_those_of_the_lowest_share(gpu: SimpleNamespace) -> None:
    numbers = {"peak": {"peak_flops": 8e14}, "p2": {"share_of_peak": 0.3}}
    rows = [SimpleNamespace(part=part, numbers=one) for part, one in numbers.items()]
    with pytest.raises(gpu.gpu_rows.NotRun, match="not all measured"):
        gpu.gpu.calibrated(rows)
    rows.append(SimpleNamespace(part="p8", numbers={"share_of_peak": 0.2}))
    device = gpu.gpu.calibrated(rows)
    assert (device.flops, device.share) == (8e14, 0.2)


def test_an_optimiser_that_changes_more_than_its_slice_is_found(
    gpu: SimpleNamespace, checks, monkeypatch
) -> None:
    monkeypatch.setattr(gpu.gpu_checks, "STEPS", 2)
    # to compile an update takes ten seconds; test_all_parts_run_in_small does
    monkeypatch.setitem(gpu.gpu_checks.measure.__globals__, "FREEZING", ("ours", "torch only"))
    assert checks.optimizer(9).kept
    usual = SlicedAdamW.step_slices

    def careless(self, slices):
        usual(self, slices)
        with torch.no_grad():
            for group in self.param_groups:
                torch._foreach_add_(group["params"], 1e-3)

    monkeypatch.setattr(SlicedAdamW, "step_slices", careless)
    with pytest.raises(AssertionError, match="has changed outside its slice"):
        checks.optimizer(9)


def test_losses_in_bf16_are_compared(gpu: SimpleNamespace, checks, monkeypatch) -> None:
    monkeypatch.setattr(gpu.gpu_checks, "STAGES", ("teacher",))
    found = checks.losses(9)
    assert found.kept
    assert 0 < found.numbers["teacher"] < 0.03
    monkeypatch.setattr(gpu.gpu_checks, "LOSS_LIMIT", found.numbers["teacher"] / 2)
    assert not checks.losses(9).kept


def test_trainings_are_apart_if_a_bit_or_a_line_differs(gpu: SimpleNamespace) -> None:
    made = gpu.gpu_checks.Trained
    one = made({"a": torch.ones(2)}, ["line"])
    assert one.distance(made({"a": torch.ones(2)}, ["line"])) == 0
    assert one.distance(made({"a": torch.tensor([1.0, 1.5])}, ["line"])) == 0.5
    assert one.distance(made({"a": torch.ones(2)}, ["other"])) == float("inf")
    assert one.distance(made({"a": torch.ones(2)}, [])) == float("inf")
    assert one.distance(made({"b": torch.ones(2)}, ["line"])) == float("inf")


@pytest.mark.slow
def test_a_resumed_training_is_compared(gpu: SimpleNamespace, checks, monkeypatch) -> None:
    monkeypatch.setattr(gpu.gpu_checks, "STAGES", ("finetune",))
    found = checks.resume(9)
    assert found.kept
    assert found.result == "finetune equal bits"
    monkeypatch.setattr(TrainingState, "fill", lambda self, tensors: None)
    assert not checks.resume(9).kept


def test_the_input_is_compared(gpu: SimpleNamespace, checks, monkeypatch) -> None:
    assert checks.input(9).kept
    usual = gpu.gpu_checks.task_on_noise

    def brighter(stage, settings, runtime, batch):
        task = usual(stage, settings, runtime, batch)
        made, runs = task.inputs, next(count)
        task.inputs = lambda step, rows: [one + 0.1 * runs for one in made(step, rows)[:1]]
        return task

    count = iter((0, 1))
    monkeypatch.setattr(gpu.gpu_checks, "task_on_noise", brighter)
    assert not checks.input(9).kept


def test_networks_are_compared_with_equal_ones_of_timm(gpu: SimpleNamespace) -> None:
    batches = gpu.gpu_speed.Batches(2, 2, 2, 2)
    speeds = gpu.gpu_speed.Speeds(Runtime.choose("cpu", "fp32"), SETTINGS, batches, 0.0)
    found = speeds.against_timm(compiled=False)(60.0)
    assert found.kept
    assert found.numbers["logits_apart"] < 1e-4
    assert found.numbers["ratio"] > 0


@pytest.mark.slow
def test_all_parts_run_in_small(gpu: SimpleNamespace, tmp_path, capsys) -> None:
    words = ["--device", "cpu", "--small", "--minutes", "4", "--out", str(tmp_path)]
    assert gpu.gpu.main(words) == 0
    written = json.loads((tmp_path / "gpu.json").read_text())
    status = {row["part"]: row["status"] for row in written["rows"]}
    assert {part for part, one in status.items() if one == "not run"} <= {"tests", "p8-compiled"}
    assert status["plan-transfer-pets"] == "ok"
    for row in written["rows"]:
        if row["part"] in ("p1", "p2", "p5", "p8"):
            assert 0 < row["numbers"]["share_of_peak"] < 2
            assert row["numbers"]["memory_bytes"] > 0
    assert capsys.readouterr().out.count("\n| ") == len(status) + 2  # head, rule


def test_unknown_parts_and_failures_have_exit_codes(gpu: SimpleNamespace, tmp_path, monkeypatch):
    words = ["--device", "cpu", "--small", "--out", str(tmp_path), "--only"]
    with pytest.raises(SystemExit, match="2"):
        gpu.gpu.main([*words, "p3"])

    def broken(self, left):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(gpu.gpu.Checks, "losses", broken)
    assert gpu.gpu.main([*words, "losses"]) == 1
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert (row["status"], row["result"]) == ("failed", "RuntimeError: CUDA error")
