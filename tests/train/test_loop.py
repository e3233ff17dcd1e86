import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from masktas.console import Console
from masktas.errors import MasktasError
from masktas.train.checkpoint import Checkpoints, TrainingState
from masktas.train.loop import Plan, fit
from masktas.train.optim import adamw, warmup_cosine

PLAN = Plan("teacher", epochs=2, steps_per_epoch=25, batch_size=4, seed=3, checkpoint_seconds=0)
FOREVER = Plan("teacher", epochs=2, steps_per_epoch=25, batch_size=4, seed=3,
               checkpoint_seconds=1e9)  # fmt: skip
Step = Callable[[int], dict[str, Tensor]]


class Killed(BaseException):
    """What a kill looks like from inside."""


def trainer(plan: Plan = PLAN) -> tuple[TrainingState, Step]:
    """A small network with dropout, so that the random numbers of layers count too."""
    network = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    optimizer = adamw(network, lr=1e-2, weight_decay=0.05)
    schedule = warmup_cosine(optimizer, total_steps=plan.total_steps, warmup_share=0.2)

    def step(index: int) -> dict[str, Tensor]:
        schedule.step_update(index)
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(index))
        loss = (network(x) - x[:, :2]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach(), "twice": 2 * loss.detach()}

    return TrainingState(network, optimizer), step


def watch(epoch: int) -> dict[str, float]:
    return {"accuracy": epoch / 7}


def run(folder: Path, plan: Plan = PLAN) -> tuple[dict[str, Tensor], str]:
    """Train without interruption; return all tensors and the log."""
    state, step = trainer(plan)
    fit(step, plan, state, folder, Console(quiet=True), after_epoch=watch)
    return state.tensors(), (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], str]:
    """What an uninterrupted training leaves."""
    return run(tmp_path_factory.mktemp("straight"))


def kill_at(step: Step, at: int, where: str) -> Step:
    def dying(index: int) -> dict[str, Tensor]:
        if index == at and where == "before":
            raise Killed
        losses = step(index)
        if index == at:
            raise Killed
        return losses

    return dying


def assert_same(state: TrainingState, folder: Path, wanted: tuple[dict[str, Tensor], str]) -> None:
    tensors = state.tensors()
    assert tensors.keys() == wanted[0].keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, wanted[0][name]), name
    assert (folder / "metrics.jsonl").read_text() == wanted[1]


@pytest.mark.parametrize("seed", range(12))
def test_a_training_killed_anywhere_ends_as_the_uninterrupted_one(
    tmp_path: Path, straight, seed: int
):
    rng = random.Random(seed)
    kills = sorted(rng.sample(range(PLAN.total_steps), rng.randint(1, 3)))
    for at in kills:
        state, step = trainer()
        dying = kill_at(step, at, rng.choice(["before", "after"]))
        with pytest.raises(Killed):
            fit(dying, PLAN, state, tmp_path, Console(quiet=True), after_epoch=watch)
        torch.rand(rng.randint(1, 5))  # another process starts elsewhere in its random numbers
    state, step = trainer()
    fit(step, PLAN, state, tmp_path, Console(quiet=True), after_epoch=watch)
    assert_same(state, tmp_path, straight)


def test_work_since_a_checkpoint_is_all_that_is_done_again(tmp_path: Path):
    state, step = trainer()
    with pytest.raises(Killed):
        fit(kill_at(step, 33, "before"), PLAN, state, tmp_path, Console(quiet=True))
    done = []
    state, step = trainer()

    def counting(index: int) -> dict[str, Tensor]:
        done.append(index)
        return step(index)

    fit(counting, PLAN, state, tmp_path, Console(quiet=True))
    assert done == list(range(32, 50))  # a line, and so a checkpoint, after every second step


def test_a_training_killed_while_watching_an_epoch_ends_alike(tmp_path: Path, straight):
    state, step = trainer()

    def dying(epoch: int) -> dict[str, float]:
        raise Killed

    with pytest.raises(Killed):
        fit(step, PLAN, state, tmp_path, Console(quiet=True), after_epoch=dying)
    state, step = trainer()
    fit(step, PLAN, state, tmp_path, Console(quiet=True), after_epoch=watch)
    assert_same(state, tmp_path, straight)


def test_a_training_killed_while_writing_a_line_ends_alike(tmp_path: Path, straight):
    state, step = trainer()
    with pytest.raises(Killed):
        fit(kill_at(step, 31, "after"), PLAN, state, tmp_path, Console(quiet=True),
            after_epoch=watch)  # fmt: skip
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 32, "epo')
    state, step = trainer()
    fit(step, PLAN, state, tmp_path, Console(quiet=True), after_epoch=watch)
    assert_same(state, tmp_path, straight)


def test_a_training_whose_last_checkpoint_was_damaged_ends_alike(tmp_path: Path, straight):
    state, step = trainer()
    with pytest.raises(Killed):
        fit(kill_at(step, 41, "after"), PLAN, state, tmp_path, Console(quiet=True),
            after_epoch=watch)  # fmt: skip
    newest = max((tmp_path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-3])
    state, step = trainer()
    fit(step, PLAN, state, tmp_path, Console(quiet=True), after_epoch=watch)
    assert_same(state, tmp_path, straight)


def test_a_training_killed_before_its_first_checkpoint_starts_afresh(tmp_path: Path, straight):
    state, step = trainer()
    with pytest.raises(Killed):
        fit(kill_at(step, 30, "after"), FOREVER, state, tmp_path, Console(quiet=True))
    assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "metrics.jsonl").exists()
    state, step = trainer()
    fit(step, FOREVER, state, tmp_path, Console(quiet=True), after_epoch=watch)
    assert_same(state, tmp_path, straight)


def test_how_often_checkpoints_are_made_changes_nothing(tmp_path: Path, straight):
    tensors, log = run(tmp_path, FOREVER)
    assert log == straight[1]
    assert all(torch.equal(tensor, straight[0][name]) for name, tensor in tensors.items())


def test_a_finished_training_called_again_does_its_last_steps_again(tmp_path: Path, straight):
    run(tmp_path)
    state, step = trainer()
    fit(step, PLAN, state, tmp_path, Console(quiet=True), after_epoch=watch)
    assert_same(state, tmp_path, straight)


def test_lines_hold_averages_since_the_line_before(tmp_path: Path):
    state, _ = trainer()
    plan = Plan("x", epochs=2, steps_per_epoch=25, batch_size=1, seed=0, checkpoint_seconds=1e9)

    def step(index: int) -> dict[str, Tensor]:
        return {"a": torch.tensor(float(index)), "b": torch.tensor(float(index**2))}

    fit(step, plan, state, tmp_path, Console(quiet=True), after_epoch=watch)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    ends = [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 25]
    ends += [26, 28, 30, 32, 34, 36, 38, 40, 42, 44, 46, 48, 50]
    assert [line["step"] for line in lines] == ends
    start = 0
    for line in lines:
        steps = range(start, line["step"])
        start = line["step"]
        assert line["a"] == pytest.approx(sum(steps) / len(steps))
        assert line["b"] == pytest.approx(sum(i * i for i in steps) / len(steps))
        assert line["epoch"] == line["step"] / 25
        epoch = {25: 1 / 7, 50: 2 / 7}.get(line["step"])
        assert line.get("accuracy") == epoch


def test_after_epoch_is_called_once_an_epoch_with_its_number(tmp_path: Path):
    calls: list[tuple[int, int]] = []
    steps: list[int] = []
    state, _ = trainer()
    plan = Plan("x", epochs=3, steps_per_epoch=7, batch_size=1, seed=0, checkpoint_seconds=0)

    def step(index: int) -> dict[str, Tensor]:
        steps.append(index)
        return {"loss": torch.tensor(1.0)}

    def after(epoch: int) -> dict[str, float]:
        calls.append((epoch, len(steps)))
        return {}

    fit(step, plan, state, tmp_path, Console(quiet=True), after_epoch=after)
    assert steps == list(range(21))
    assert calls == [(1, 7), (2, 14), (3, 21)]


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 10, 25, 137, 5000])
def test_about_ten_lines_an_epoch(steps_per_epoch: int):
    plan = Plan("x", epochs=1, steps_per_epoch=steps_per_epoch, batch_size=1, seed=0,
                checkpoint_seconds=1)  # fmt: skip
    assert 1 <= plan.log_every <= 50
    if 10 <= steps_per_epoch <= 500:
        assert 10 <= steps_per_epoch / plan.log_every < 20
    assert plan.total_steps == steps_per_epoch


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path, bad: float):
    state, step = trainer()

    def failing(index: int) -> dict[str, Tensor]:
        losses = step(index)
        if index == 10:  # the first step of the line that ends at 12
            losses["twice"] = torch.tensor(bad)
        return losses

    with pytest.raises(MasktasError, match=rf"teacher: twice is {bad} by step 12") as caught:
        fit(failing, PLAN, state, tmp_path, Console(quiet=True))
    assert "--lr" in str(caught.value)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 10
    tensors, meta = Checkpoints(tmp_path / "checkpoints", pytest.fail).newest()
    assert meta["step"] == 10
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_layers_draw_by_seed_and_step_alone(tmp_path: Path):
    def drawn(seed: int, plan_epochs: int, before: int) -> dict[int, float]:
        torch.manual_seed(before)
        numbers: dict[int, float] = {}

        def step(index: int) -> dict[str, Tensor]:
            numbers[index] = torch.rand(()).item()
            return {"loss": torch.tensor(1.0)}

        plan = Plan("x", plan_epochs, 5, batch_size=1, seed=seed, checkpoint_seconds=1e9)
        state, _ = trainer()
        fit(step, plan, state, tmp_path, Console(quiet=True))
        return numbers

    short, long = drawn(0, 1, 8), drawn(0, 2, 9)
    assert short.items() <= long.items()
    assert len(set(long.values())) == 10
    assert drawn(1, 1, 8) != short


def test_the_cost_is_that_of_all_attempts(tmp_path: Path):
    plan = Plan("x", epochs=1, steps_per_epoch=4, batch_size=4, seed=0, checkpoint_seconds=0)
    began = time.monotonic()
    for at in (2, 3):
        state, step = trainer(plan)

        def dying(index: int, step: Step = step, at: int = at) -> dict[str, Tensor]:
            if index == 0:
                time.sleep(0.5)
            return kill_at(step, at, "before")(index)

        with pytest.raises(Killed):
            fit(dying, plan, state, tmp_path, Console(quiet=True))
    state, step = trainer(plan)
    cost = fit(step, plan, state, tmp_path, Console(quiet=True))  # one step is left, a quick one
    assert cost["images"] == 16
    assert 0.5 <= cost["seconds"] <= time.monotonic() - began + 0.001


def test_a_quiet_console_leaves_standard_output_to_results(tmp_path: Path, capfd):
    state, step = trainer()
    fit(step, PLAN, state, tmp_path, Console(quiet=True))
    assert capfd.readouterr() == ("", "")


def test_progress_and_going_on_are_said_on_standard_error(tmp_path: Path, capfd):
    state, step = trainer()
    with pytest.raises(Killed):
        fit(kill_at(step, 21, "before"), PLAN, state, tmp_path, Console())
    capfd.readouterr()
    state, step = trainer()
    fit(step, PLAN, state, tmp_path, Console())
    out, err = capfd.readouterr()
    assert out == ""
    assert "Going on from step 20" in err
    assert "teacher: 50/50 loss" in err
