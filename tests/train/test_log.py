"""What a training leaves to look at: lines, seconds of every attempt, events for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch import Tensor, nn

from masktas.console import Console
from masktas.stopping import Stopping
from masktas.train.log import Ledger, Metrics
from masktas.train.loop import Environment, LoopConfig, Training
from masktas.train.optim.sliced_adamw import adamw
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe


@pytest.fixture(autouse=True)
def _first_files(monkeypatch) -> None:
    """Number event files from 0, as in a fresh process: TensorBoard sorts those of a second so."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


SPEED = {"images_per_second": 7.5, "memory_bytes": 1e6}


class Killed(BaseException):
    pass


class Tiny:
    """`Task`: one layer; `kill` dies before a step, `bad` is not a number at another."""

    batch_size = 2
    members = ()

    def __init__(self, *, kill: int = -1, bad: int = -1) -> None:
        self.module = nn.Linear(3, 1)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.fill_(0.5)
        self.optimizer = adamw(self.module, lr=0.1, weight_decay=0.0)
        self.schedule = OptimRecipe(0.1, 0.0, 12, 0.2).schedule(self.optimizer)
        self.kill, self.bad, self.now = kill, bad, -1

    def networks(self, step: int) -> list[nn.Module]:
        self.now = step
        if step == self.kill:
            raise Killed
        return [self.module]

    def inputs(self, step: int, rows: slice) -> Tensor:
        return torch.randn(2, 3, generator=torch.Generator().manual_seed(step))[rows]

    def losses(self, network: nn.Module, x: Tensor) -> dict[str, Tensor]:
        loss = network(x).square().mean()
        return {"loss": loss * float("nan") if self.now == self.bad else loss}

    def update(self, _: nn.Module) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def macs(self, _: int) -> int:
        return 9

    def about(self, _: int) -> str:
        return ""


class Quiet(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)

    def warn(self, text: str) -> None:
        pass


def train(folder: Path, seconds: float = 0, *, tensorboard: bool = True, **of_task: int) -> None:
    plan = LoopConfig("x", 2, 6, 2, checkpoint_seconds=seconds, tensorboard=tensorboard)
    runtime = Runtime(torch.device("cpu"), bf16=False)
    machine = Environment(runtime, ALONE, Stopping(), Quiet(), Ledger(folder))
    Training(
        Tiny(**of_task), plan, folder, machine, after_epoch=lambda e: {"probe/a/loss": e / 3}
    ).run()


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read what TensorBoard shows: for each name its steps and values."""
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        name: [(event.step, event.value) for event in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
    }


def assert_shows_the_lines(folder: Path) -> None:
    events, lines = events_of(folder), lines_of(folder)
    names = {name for line in lines for name in line} - {"step"}
    assert set(events) == names | set(SPEED)
    for name in names:
        wanted = [(line["step"], line[name]) for line in lines if name in line]
        assert [step for step, _ in events[name]] == [step for step, _ in wanted], name
        values = [value for _, value in events[name]]
        assert values == pytest.approx([value for _, value in wanted], rel=1e-6), name
    for name in SPEED:
        assert [step for step, _ in events[name]] == [line["step"] for line in lines]


def test_tensorboard_shows_what_the_lines_say(tmp_path: Path):
    train(tmp_path)
    assert len(lines_of(tmp_path)) == 12
    assert_shows_the_lines(tmp_path)
    assert events_of(tmp_path)["probe/a/loss"] == [(6, pytest.approx(1 / 3)),
                                                   (12, pytest.approx(2 / 3))]  # fmt: skip


@pytest.mark.parametrize("seconds", [0, 1e9], ids=["often", "seldom"])
def test_after_a_kill_it_shows_no_step_twice(tmp_path: Path, seconds: float):
    train(tmp_path / "straight")
    for at in (4, 9):
        with pytest.raises(Killed):
            train(tmp_path / "killed", seconds, kill=at)
    train(tmp_path / "killed", seconds)
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "straight")
    assert_shows_the_lines(tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "tensorboard").iterdir())) == 3


def test_after_going_back_from_a_bad_step_it_shows_no_step_twice(tmp_path: Path):
    train(tmp_path, 1e9, bad=8)
    assert [line["step"] for line in lines_of(tmp_path)] == list(range(1, 13))
    assert_shows_the_lines(tmp_path)


def test_started_afresh_it_shows_nothing_of_before(tmp_path: Path):
    with pytest.raises(Killed):
        train(tmp_path, kill=9)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    train(tmp_path)
    assert_shows_the_lines(tmp_path)


def test_if_it_is_not_wanted_none_is_written(tmp_path: Path):
    train(tmp_path, tensorboard=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoints", "ledger.jsonl", "metrics.jsonl",
    }  # fmt: skip
    train(tmp_path / "with")
    assert lines_of(tmp_path) == lines_of(tmp_path / "with")


# --- the parts


@pytest.mark.parametrize("tensorboard", [False, True])
def test_cut_drops_what_will_be_written_again(tmp_path: Path, tensorboard: bool):
    metrics = Metrics(tmp_path, tensorboard=tensorboard)
    metrics.cut(-1)
    for step in (5, 10, 15):
        metrics.write({"step": step, "epoch": step / 10, "loss": 1 / step}, SPEED)
    metrics = Metrics(tmp_path, tensorboard=tensorboard)
    metrics.cut(10)
    assert [line["step"] for line in lines_of(tmp_path)] == [5, 10]
    assert [line["loss"] for line in lines_of(tmp_path)] == [1 / 5, 1 / 10]
    metrics.write({"step": 12, "epoch": 1.2, "loss": 0.5}, SPEED)  # again does nothing
    assert [line["step"] for line in lines_of(tmp_path)] == [5, 10, 12]
    if tensorboard:
        assert_shows_the_lines(tmp_path)


@pytest.mark.parametrize(("step", "kept"), [(-1, 0), (0, 0), (4, 0), (5, 1), (9, 1), (99, 3)])
def test_cut_keeps_lines_up_to_a_step(tmp_path: Path, step: int, kept: int):
    metrics = Metrics(tmp_path, tensorboard=False)
    for at in (5, 10, 15):
        metrics.write({"step": at}, SPEED)
    metrics.cut(step)
    assert [line["step"] for line in lines_of(tmp_path)] == [5, 10, 15][:kept]


def test_a_torn_line_is_cut_off(tmp_path: Path):
    metrics = Metrics(tmp_path, tensorboard=False)
    metrics.write({"step": 1}, SPEED)
    for tear in (metrics.cut, None):
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"step": 2, "los')
        if tear:
            tear(1)
            assert [line["step"] for line in lines_of(tmp_path)] == [1]
    metrics.write({"step": 3}, SPEED)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 3]


def test_with_nothing_there_a_cut_makes_nothing(tmp_path: Path):
    Metrics(tmp_path, tensorboard=False).cut(7)
    assert not list(tmp_path.iterdir())


def test_a_ledger_adds_up_attempts(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    entries = [(1, 10, 2.5), (1, 20, 5.0), (2, 12, 1.0), (4, 30, 0.25)]
    path.write_text(
        "".join(
            json.dumps({"attempt": attempt, "step": step, "seconds": seconds}) + "\n"
            for attempt, step, seconds in entries
        )
    )
    with open(path, "a") as file:
        file.write('{"attempt": 5, "st')  # killed while writing
    ledger = Ledger(tmp_path)
    assert ledger.attempt == 5
    assert 6.25 <= ledger.seconds < 7.25
    ledger.write(40, images_per_second=3.0, seconds_left=None)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 5
    assert 0 <= lines[-1].pop("seconds") < 1
    assert lines[-1] == {"attempt": 5, "step": 40, "images_per_second": 3.0, "seconds_left": None}
    assert Ledger(tmp_path).attempt == 6


def test_of_several_processes_one_keeps_the_ledger(tmp_path: Path):
    silent = Ledger(tmp_path, writes=False)
    silent.write(3)
    assert not list(tmp_path.iterdir())
    assert 0 <= silent.seconds < 1


def test_numbers_that_tensorboard_cannot_hold_are_left_out_there(tmp_path: Path):
    warned: list[str] = []
    metrics = Metrics(tmp_path, tensorboard=True, warn=warned.append)
    metrics.cut(0)
    line = {"step": 1, "lr": 1e300, "loss": float("nan"), "norm": -1e39, "small": 1e-300}
    metrics.write(line, {})
    assert warned == []
    assert events_of(tmp_path) == {"small": [(1, 0.0)]}
    assert lines_of(tmp_path)[0]["lr"] == 1e300
