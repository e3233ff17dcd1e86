"""The loop left alone: what it logs, what a training costs, and what it says."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from masktas.console import Console
from masktas.errors import Stopped
from masktas.train.log import Ledger
from tiny_training import (
    SELDOM,
    STEPS,
    TOTAL,
    Tiny,
    assert_same,
    in_child,
    kill_at,
    lines_of,
    plan_of,
    training,
)


def test_lines_hold_exact_means_since_the_line_before(tmp_path: Path):
    one = training(tmp_path)
    one.run()
    lines, start = lines_of(tmp_path), 0
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15, 18]
    for line in lines:
        losses = [one.task.losses_of[step] for step in range(start, line["step"])]
        for name, column in zip(("loss", "twice"), zip(*losses, strict=True), strict=True):
            assert line[name] == math.fsum(column) / 3
        assert line["epoch"] == line["step"] / STEPS
        assert line.get("accuracy") == {9: 1 / 7, 18: 2 / 7}.get(line["step"])
        one.task.schedule.step_update(line["step"] - 1)
        assert line["lr"] == one.task.optimizer.param_groups[0]["lr"]
        more = {"accuracy"} if line["step"] % STEPS == 0 else set()
        assert set(line) == {"step", "epoch", "loss", "twice", "grad_norm", "lr"} | more
        start = line["step"]


def test_the_norm_of_the_gradient_is_logged(tmp_path: Path):
    norms: list[float] = []

    class Watched(Tiny):
        def update(self, network: nn.Module) -> None:
            norms.append(math.hypot(*(p.grad.double().norm().item() for p in network.parameters())))
            super().update(network)

    training(tmp_path, task=Watched()).run()
    means = [sum(norms[at : at + 3]) / 3 for at in range(0, TOTAL, 3)]
    assert [line["grad_norm"] for line in lines_of(tmp_path)] == pytest.approx(means, rel=1e-5)


def test_what_was_learnt_says_nothing_of_time(tmp_path: Path, straight):
    slow = training(tmp_path, task=Tiny(after=lambda step: time.sleep(0.02 if step < 4 else 0)))
    slow.run()
    assert_same(slow, tmp_path, straight)
    figures = {"seconds_left", "images_per_second", "memory_bytes"}  # not beside a checkpoint
    for line in lines_of(tmp_path, "ledger.jsonl"):
        assert set(line) - {"attempt", "step", "seconds"} in (figures, set())
    assert lines_of(tmp_path, "ledger.jsonl")[-1]["seconds"] >= 0.08


def test_the_ledger_counts_the_seconds_of_killed_attempts(tmp_path: Path):
    for attempt, at in enumerate((7, 12), start=1):
        status = in_child(
            lambda at=at: training(
                tmp_path,
                task=Tiny(
                    before=lambda step: time.sleep(0.1 if step in (1, 8) else 0),
                    after=lambda step: os._exit(9) if step == at else None,
                ),
            ).run()
        )
        assert status == 9
        assert lines_of(tmp_path, "ledger.jsonl")[-1]["attempt"] == attempt
    ledger = Ledger(tmp_path)
    assert ledger.attempt == 3
    last = {line["attempt"]: line["seconds"] for line in lines_of(tmp_path, "ledger.jsonl")}
    assert min(last.values()) >= 0.1
    assert sum(last.values()) <= ledger.seconds < sum(last.values()) + 5
    before = ledger.seconds
    time.sleep(0.02)
    assert ledger.seconds >= before + 0.02


def test_an_attempt_that_was_stopped_before_its_first_line_counts_too(tmp_path: Path, sigterm):
    def stop(step: int) -> None:
        if step == 1:
            time.sleep(0.2)
            sigterm()

    with pytest.raises(Stopped):
        training(tmp_path, SELDOM, Tiny(after=stop)).run()
    ledger = Ledger(tmp_path)
    assert ledger.seconds >= 0.2
    assert ledger.attempt == 2


def test_the_cost_is_that_of_the_whole_training(tmp_path: Path):
    kill_at(tmp_path, 13)
    assert training(tmp_path).run() == {
        "images": 4 * TOTAL,
        "flops": 2 * 4 * sum(100 + step for step in range(TOTAL)),
        "skipped_steps": [],
    }


def test_steps_left_out_cost_nothing(tmp_path: Path):
    cost = training(tmp_path, task=Tiny(bad={4: "loss", 10: "gradient"})).run()
    assert cost["images"] == 4 * (TOTAL - 2)
    assert cost["flops"] == 2 * 4 * (sum(100 + step for step in range(TOTAL)) - 104 - 110)
    assert cost["skipped_steps"] == [4, 10]


def test_after_epoch_is_called_once_an_epoch_with_its_number(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    one = training(tmp_path, SELDOM, after_epoch=lambda e: calls.append((e, len(one.task.done))))
    with pytest.raises(TypeError):  # None is no line
        one.run()
    assert calls == [(1, STEPS)]
    calls.clear()
    one = training(
        tmp_path / "b", after_epoch=lambda e: calls.append((e, len(one.task.done))) or {}
    )
    one.run()
    assert calls == [(1, STEPS), (2, TOTAL)]


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 10, 25, 137, 5000])
def test_about_ten_lines_an_epoch(steps_per_epoch: int):
    plan = plan_of(1, epochs=3, steps_per_epoch=steps_per_epoch)
    assert 1 <= plan.log_every <= 50
    assert plan.total_steps == 3 * steps_per_epoch
    lines = [done for done in range(1, steps_per_epoch + 1) if plan.is_line(done)]
    assert lines[-1] == steps_per_epoch
    assert len(lines) >= min(steps_per_epoch, 10)
    if steps_per_epoch <= 500:
        assert len(lines) <= 20
    epochs = [done for done in range(1, plan.total_steps + 1) if plan.ends_epoch(done)]
    assert epochs == [steps_per_epoch * number for number in (1, 2, 3)]


def test_a_quiet_console_leaves_standard_output_to_results(tmp_path: Path, capfd):
    training(tmp_path, console=Console(quiet=True)).run()
    assert capfd.readouterr() == ("", "")


def test_progress_and_going_on_are_said_on_standard_error(tmp_path: Path, capfd):
    kill_at(tmp_path, 11)
    capfd.readouterr()
    training(tmp_path, console=Console()).run()
    out, err = capfd.readouterr()
    assert out == ""
    assert "Resuming from step 11" in err
    assert f"teacher: {TOTAL}/{TOTAL} loss" in err


def test_random_numbers_of_layers_are_nobodys(tmp_path: Path):
    """What a training draws is named by the step: the generator of torch is left alone."""
    one = training(tmp_path)
    torch.manual_seed(5)
    one.run()
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)
