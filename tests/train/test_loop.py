"""The loop: stopped, killed, out of numbers or out of room, it ends as if nothing had been."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from masktas import stopping
from masktas.console import Console
from masktas.errors import MasktasError, Stopped
from masktas.stopping import Stopping
from masktas.train.checkpoint import Checkpoints, TrainingState
from masktas.train.log import Ledger
from masktas.train.loop import RECOVERIES, Environment, LoopConfig, Training
from masktas.train.optim.sliced_adamw import adamw
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe

EPOCHS, STEPS = 2, 9
TOTAL = EPOCHS * STEPS
CPU = Runtime(torch.device("cpu"), bf16=False)
RARELY = 1e9
Ends = tuple[dict[str, Tensor], str]


class Killed(BaseException):
    """What a kill looks like from inside."""


class Heard(Console):
    """A console that says nothing and remembers its warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Tiny:
    """`Task`: a small network; what goes wrong goes wrong by the number of the step.

    Args:
        bad: at which steps what is not a number: `loss`, `watched` (another loss) or `gradient`.
        before, after: called with the number of a step, before it and when it has been done.
    """

    batch_size = 4
    members = ()

    def __init__(
        self,
        *,
        bad: dict[int, str] | None = None,
        before: Callable[[int], None] | None = None,
        after: Callable[[int], None] | None = None,
    ) -> None:
        self.module = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 2))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.optimizer = adamw(self.module, lr=1e-2, weight_decay=0.05)
        self.schedule = OptimRecipe(1e-2, 0.05, TOTAL, 0.2).schedule(self.optimizer)
        self.bad, self.before, self.after = bad or {}, before, after
        self.done: list[int] = []
        self.losses_of: dict[int, tuple[float, float]] = {}

    def networks(self, step: int) -> list[nn.Module]:
        if self.before:
            self.before(step)
        self.done.append(step)
        return [self.module]

    def inputs(self, step: int, rows: slice) -> Tensor:
        return torch.randn(4, 6, generator=torch.Generator().manual_seed(step))[rows]

    def losses(self, network: nn.Module, x: Tensor) -> dict[str, Tensor]:
        step = self.done[-1]
        loss = (network(x) - x[:, :2]).square().mean()
        twice = 2 * loss.detach()
        self.losses_of[step] = loss.item(), twice.item()
        wrong = self.bad.get(step)
        if wrong == "loss":
            loss = loss * math.nan
        elif wrong == "gradient":  # 0 is added, whose gradient is infinite
            weight = network[0].weight[0, 0]
            loss = loss + (weight - weight.detach()).sqrt()
        elif wrong == "watched":
            twice = twice / 0
        return {"loss": loss, "twice": twice}

    def update(self, _: nn.Module) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.after:
            self.after(self.done[-1])

    def macs(self, step: int) -> int:
        return 100 + step

    def about(self, step: int) -> str:
        return f"number {step} is special"


def plan_of(checkpoint_seconds: float, **changes: Any) -> LoopConfig:
    fields = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "batch_size": 4, **changes}
    return LoopConfig("teacher", checkpoint_seconds=checkpoint_seconds, **fields)


class EveryThree(LoopConfig):
    """Lines after every third step, so that there are steps between them."""

    @property
    def log_every(self) -> int:
        return 3


OFTEN = EveryThree("teacher", EPOCHS, STEPS, 4, checkpoint_seconds=0)
SELDOM = EveryThree("teacher", EPOCHS, STEPS, 4, checkpoint_seconds=RARELY)


def watch(epoch: int) -> dict[str, float]:
    return {"accuracy": epoch / 7}


def training(
    folder: Path,
    plan: LoopConfig = OFTEN,
    task: Tiny | None = None,
    *,
    limit: Stopping | None = None,
    console: Console | None = None,
    after_epoch: Callable[[int], dict[str, float]] = watch,
    is_enough: Callable[[int], bool] | None = None,
) -> Training:
    machine = Environment(CPU, ALONE, limit or Stopping(), console or Heard(), Ledger(folder))
    return Training(
        task or Tiny(), plan, folder, machine, after_epoch=after_epoch, is_enough=is_enough
    )


def ends(one: Training, folder: Path) -> Ends:
    state = TrainingState(one.task.module, one.task.optimizer)
    return state.tensors(), (folder / "metrics.jsonl").read_text()


def assert_same(one: Training, folder: Path, wanted: Ends) -> None:
    tensors, lines = ends(one, folder)
    assert tensors.keys() == wanted[0].keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, wanted[0][name]), name
    assert lines == wanted[1]


def assert_goes_on_to(
    wanted: Ends, folder: Path, plan: LoopConfig = OFTEN, **of_task: Any
) -> Training:
    torch.rand(3)  # another process starts elsewhere in its random numbers
    one = training(folder, plan, Tiny(**of_task))
    one.run()
    assert_same(one, folder, wanted)
    return one


def in_child(do: Callable[[], object]) -> int:
    """Do something in a process of its own; return how that ended, -9 if it was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads; the child needs none
        child = os.fork()
    if not child:
        code = 1
        try:
            do()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lines_of(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def kept(folder: Path) -> list[int]:
    return Checkpoints(folder / "checkpoints", pytest.fail).steps()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """What an uninterrupted training leaves."""
    folder = tmp_path_factory.mktemp("straight")
    one = training(folder)
    one.run()
    return ends(one, folder)


# --- killed


class Trap:
    """Counts the lines of masktas's own code that are run, and kills at one of them."""

    WATCHED = ("loop.py", "checkpoint.py", "log.py", "artifacts.py", "step.py", "test_loop.py")

    def __init__(self, at: int | None = None) -> None:
        self.count, self.at = 0, at

    def __call__(self, frame: FrameType, event: str, _: object) -> Trap | None:
        if not frame.f_code.co_filename.endswith(self.WATCHED):
            return None
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self

    def run(self, one: Training) -> int:
        sys.settrace(self)
        try:
            one.run()
        finally:
            sys.settrace(None)
        return self.count


@pytest.mark.parametrize("plan", [OFTEN, SELDOM], ids=["often", "seldom"])
def test_killed_at_any_line_of_the_code_it_ends_as_the_uninterrupted_one(
    tmp_path: Path, straight, plan: LoopConfig
):
    everything = Trap().run(training(tmp_path / "counted", plan))
    assert everything > 1000
    rng = random.Random(plan.checkpoint_seconds)
    for number in range(9):
        folder = tmp_path / str(number)
        for at in (rng.randrange(1, everything), rng.randrange(1, everything // 2)):
            status = in_child(lambda at=at, to=folder: Trap(at).run(training(to, plan)))
            assert status in (-signal.SIGKILL, 0)
            if number % 3:
                break  # once is enough
        assert_goes_on_to(straight, folder, plan)
        assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("plan", [OFTEN, SELDOM], ids=["often", "seldom"])
def test_killed_by_an_error_at_any_step_it_ends_as_the_uninterrupted_one(
    tmp_path: Path, straight, plan: LoopConfig
):
    def die(step: int) -> None:
        if step == at:
            raise Killed

    for at in (0, 1, 2, 3, 8, 9, 16, 17):
        folder = tmp_path / str(at)
        with pytest.raises(Killed):
            training(folder, plan, Tiny(**{"after" if at % 2 else "before": die})).run()
        one = assert_goes_on_to(straight, folder, plan)
        assert one.task.done == list(range(at if plan is OFTEN else 0, TOTAL))


def test_killed_while_watching_an_epoch_it_ends_alike(tmp_path: Path, straight):
    for plan in (OFTEN, SELDOM):
        for at in range(1, EPOCHS + 1):
            folder = tmp_path / f"{plan.checkpoint_seconds}-{at}"

            def dying(epoch: int, at: int = at) -> dict[str, float]:
                if epoch == at:
                    raise Killed
                return watch(epoch)

            with pytest.raises(Killed):
                training(folder, plan, after_epoch=dying).run()
            assert_goes_on_to(straight, folder, plan)


def kill_at(folder: Path, at: int, plan: LoopConfig = OFTEN, **of_task: Any) -> None:
    def die(step: int) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        training(folder, plan, Tiny(before=die, **of_task)).run()


@pytest.mark.parametrize("torn", ['{"step": 13, "epo', "\x00\x00", '{"step": 15}'])
def test_killed_while_writing_a_line_it_ends_alike(tmp_path: Path, straight, torn: str):
    kill_at(tmp_path, 13)
    for name in ("metrics.jsonl", "ledger.jsonl"):
        with open(tmp_path / name, "a") as file:
            file.write(torn)
    assert_goes_on_to(straight, tmp_path)


def test_lines_after_the_checkpoint_are_written_again_not_twice(tmp_path: Path, straight):
    kill_at(tmp_path, 13, SELDOM)
    assert [line["step"] for line in lines_of(tmp_path)] == [3, 6, 9, 12]
    assert kept(tmp_path) == [0]
    assert_goes_on_to(straight, tmp_path, SELDOM)


def test_killed_before_its_first_checkpoint_it_starts_afresh(tmp_path: Path, straight):
    kill_at(tmp_path, 13)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    assert lines_of(tmp_path)
    assert_goes_on_to(straight, tmp_path)


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_are_passed_over_with_a_warning(tmp_path: Path, straight, damaged: int):
    kill_at(tmp_path, 13)
    assert kept(tmp_path) == [13, 12]
    for path in sorted((tmp_path / "checkpoints").iterdir(), reverse=True)[:damaged]:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
    console = Heard()
    one = training(tmp_path, console=console)
    one.run()
    assert_same(one, tmp_path, straight)
    assert one.task.done[0] == (12 if damaged == 1 else 0)
    assert len(console.warnings) == damaged
    assert "step-000000013.safetensors: damaged" in console.warnings[0]


def test_how_often_checkpoints_are_made_changes_nothing(tmp_path: Path, straight):
    one = training(tmp_path, SELDOM)
    one.run()
    assert_same(one, tmp_path, straight)
    assert kept(tmp_path) == [0]


def test_a_finished_training_called_again_does_its_last_step_again(tmp_path: Path, straight):
    training(tmp_path).run()
    assert kept(tmp_path) == [TOTAL - 1, TOTAL - 2]
    one = assert_goes_on_to(straight, tmp_path)
    assert one.task.done == [TOTAL - 1]


def test_the_first_checkpoint_is_the_beginning(tmp_path: Path):
    kill_at(tmp_path, 0, SELDOM)
    assert kept(tmp_path) == [0]
    tensors, meta = Checkpoints(tmp_path / "checkpoints", pytest.fail).load(0)
    for name, tensor in Tiny().module.state_dict().items():
        assert torch.equal(tensors[f"module.{name}"], tensor)
    assert meta == {"step": 0, "names": [], "steps": [], "owed": False, "skipped": []}


# --- what is written


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


# --- what is not a number


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ends]:
    """Return a function: what a training leaves in which steps are left out from the beginning."""
    known: dict[tuple[int, ...], Ends] = {}

    def leave_out(*steps: int) -> Ends:
        if steps not in known:
            folder = tmp_path_factory.mktemp("without")
            one = training(folder)
            one.skipped = list(steps)
            one.run()
            assert sorted({*range(TOTAL)} - {*one.task.done}) == sorted(steps)
            known[steps] = ends(one, folder)
        return known[steps]

    return leave_out


def test_leaving_a_step_out_changes_what_is_learnt(straight, without):
    for step in (0, 7, TOTAL - 1):
        assert not torch.equal(without(step)[0]["module.0.weight"], straight[0]["module.0.weight"])


def not_finite(tensors: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in tensors.items() if not tensor.isfinite().all()}


@pytest.mark.parametrize("wrong", ["loss", "watched", "gradient"])
@pytest.mark.parametrize("plan", [OFTEN, SELDOM], ids=["often", "seldom"])
def test_a_bad_step_is_left_out_as_if_it_had_never_been(
    tmp_path: Path, without, plan: LoopConfig, wrong: str
):
    for bad in (0, 2, 3, 7, 8, TOTAL - 1):
        console, folder = Heard(), tmp_path / str(bad)
        checked: list[int] = []

        def look(step: int, folder: Path = folder, checked: list[int] = checked) -> None:
            checkpoints = Checkpoints(folder / "checkpoints", pytest.fail)
            for number in checkpoints.steps():
                assert not not_finite(checkpoints.load(number)[0])
                checked.append(number)

        one = training(folder, plan, Tiny(bad={bad: wrong}, before=look), console=console)
        cost = one.run()
        tensors, lines = ends(one, folder)
        for name, tensor in without(bad)[0].items():
            assert torch.equal(tensors[name], tensor), (bad, name)
        assert lines == without(bad)[1], bad
        assert cost["skipped_steps"] == [bad]
        assert checked
        (said,) = console.warnings
        name = {"loss": "loss", "watched": "twice", "gradient": "grad_norm"}[wrong]
        assert said.startswith(f"{name} is ")
        assert f"at step {bad} (number {bad} is special)" in said
        assert f"Returning to step {bad if plan is OFTEN else 0}; step {bad} will" in said
        assert "(1 of 3)" in said


def test_a_step_that_is_bad_only_once_is_left_out_all_the_same(tmp_path: Path, without):
    task = Tiny(bad={7: "loss"})
    task.after = lambda step: task.bad.clear() if step == 7 else None
    one = training(tmp_path, SELDOM, task)
    one.run()
    assert_same(one, tmp_path, without(7))
    assert task.done.count(7) == 1


@pytest.mark.parametrize("at", [5, 6, 7, 8, 9])
def test_wherever_a_checkpoint_fell_the_end_is_the_same(tmp_path: Path, without, at: int):
    """A slow step makes a checkpoint due, before, in and after the line of the bad one."""
    task = Tiny(bad={7: "gradient"}, after=lambda step: time.sleep(0.06 if step == at - 1 else 0))
    console = Heard()
    one = training(
        tmp_path, EveryThree("teacher", EPOCHS, STEPS, 4, checkpoint_seconds=0.05), task,
        console=console,
    )  # fmt: skip
    one.run()
    assert_same(one, tmp_path, without(7))
    if at < 8:
        assert any(f"Returning to step {step};" in console.warnings[0] for step in range(at, 8))


@pytest.mark.parametrize("plan", [OFTEN, SELDOM], ids=["often", "seldom"])
def test_killed_around_a_bad_step_it_ends_alike(tmp_path: Path, without, plan: LoopConfig):
    bad = {2: "loss", 7: "gradient", 8: "loss"}
    everything = Trap().run(training(tmp_path / "counted", plan, Tiny(bad=bad)))
    wanted = without(2, 7, 8)
    rng = random.Random(4)
    for number in range(6):
        folder, at = tmp_path / str(number), rng.randrange(everything)
        in_child(lambda at=at, to=folder: Trap(at).run(training(to, plan, Tiny(bad=bad))))
        one = training(folder, plan, Tiny(bad=bad))
        assert one.run()["skipped_steps"] == [2, 7, 8]
        tensors, lines = ends(one, folder)
        assert all(torch.equal(tensors[name], wanted[0][name]) for name in wanted[0])
        assert lines == wanted[1]


def test_the_fourth_bad_step_ends_it_with_a_sentence(tmp_path: Path):
    assert RECOVERIES == 3
    bad = {2: "loss", 7: "gradient", 8: "watched", 11: "loss"}
    for _ in range(2):  # the same command, given again, does not begin to count anew
        console = Heard()
        with pytest.raises(MasktasError, match=r"teacher: loss is nan at step 11 \(number 11") as e:
            training(tmp_path, SELDOM, Tiny(bad=bad), console=console).run()
        assert not isinstance(e.value, Stopped)
        assert "3 steps have been skipped" in str(e.value)
        assert "--lr" in str(e.value)
        assert "\n" not in str(e.value)
        assert len(console.warnings) == 3
        tensors, _ = Checkpoints(tmp_path / "checkpoints", pytest.fail).load(kept(tmp_path)[0])
        assert not not_finite(tensors)
    with pytest.raises(MasktasError, match="at step 11"):
        training(tmp_path / "often", OFTEN, Tiny(bad=bad)).run()
    console = Heard()
    with pytest.raises(MasktasError, match="at step 11"):
        training(tmp_path / "often", OFTEN, Tiny(bad=bad), console=console).run()
    assert not console.warnings  # the checkpoint knows the three


def test_with_a_line_for_every_step_bad_ones_leave_lines_alike(tmp_path: Path):
    """Then a line may hold no step at all; its learning rate must not depend on what was tried."""
    found = []
    for name, seconds in (("often", 0), ("seldom", RARELY), ("from the beginning", 0)):
        one = training(tmp_path / name, plan_of(seconds), Tiny(bad={5: "loss", 6: "gradient"}))
        if name == "from the beginning":
            one.skipped = [5, 6]
        one.run()
        found.append(lines_of(tmp_path / name))
    assert [line["step"] for line in found[0]] == list(range(1, TOTAL + 1))
    assert found[0] == found[2]
    assert found[1] == found[2]


def test_stopped_before_a_line_whose_last_step_is_left_out_it_ends_alike(
    tmp_path: Path, without, sigterm
):
    def stop(step: int) -> None:
        if task.done.count(7) == 2:  # now it is known that step 8 is left out
            sigterm()

    task = Tiny(bad={8: "loss"}, after=stop)
    with pytest.raises(Stopped, match="at step 8 of"):
        training(tmp_path, SELDOM, task).run()
    assert_goes_on_to(without(8), tmp_path, SELDOM, bad={8: "loss"})


# --- asked to stop


@pytest.fixture
def sigterm() -> Iterator[Callable[[], None]]:
    """Handle SIGTERM as the command line does; return a function that sends it."""
    before = signal.getsignal(signal.SIGTERM)
    stopping.install()
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    stopping._Process.terminated = False


@pytest.mark.parametrize("at", [0, 4, 5, 8, 16])
def test_sigterm_makes_a_checkpoint_at_that_very_step(tmp_path: Path, straight, sigterm, at: int):
    one = training(tmp_path, SELDOM, Tiny(after=lambda step: sigterm() if step == at else None))
    with pytest.raises(Stopped, match=f"Stopped at step {at + 1} of {TOTAL}.*SIGTERM") as caught:
        one.run()
    assert caught.value.exit_code == 143
    assert one.task.done == list(range(at + 1))
    assert kept(tmp_path) == [at + 1, 0]
    assert not Stopping().asked()
    again = assert_goes_on_to(straight, tmp_path, SELDOM)
    assert again.task.done == list(range(at + 1, TOTAL))


def test_stopped_after_every_step_it_ends_alike(tmp_path: Path, straight, sigterm):
    for at in range(TOTAL - 1):
        with pytest.raises(Stopped, match=f"step {at + 1} of"):
            training(tmp_path, SELDOM, Tiny(after=lambda _: sigterm())).run()
    assert_goes_on_to(straight, tmp_path, SELDOM)


def test_stopped_at_a_bad_step_it_ends_alike(tmp_path: Path, without, sigterm):
    task = Tiny(bad={7: "gradient"}, after=lambda step: sigterm() if step == 7 else None)
    with pytest.raises(Stopped) as caught:
        training(tmp_path, SELDOM, task).run()
    assert caught.value.exit_code == 143
    tensors, meta = Checkpoints(tmp_path / "checkpoints", pytest.fail).load(kept(tmp_path)[0])
    assert not not_finite(tensors)
    assert meta["step"] == 0 or meta["skipped"] == [7]
    assert_goes_on_to(without(7), tmp_path, SELDOM, bad={7: "gradient"})


def test_the_end_of_max_time_makes_a_checkpoint_too(tmp_path: Path, straight):
    slow = Tiny(after=lambda step: time.sleep(0.05 if step > 3 else 0))
    one = training(tmp_path, SELDOM, slow, limit=Stopping("0.4s"))
    with pytest.raises(
        Stopped, match=r"Stopped at step \d+ of 18, at the end of --max-time"
    ) as caught:
        one.run()
    assert caught.value.exit_code == 75
    assert kept(tmp_path)[0] == len(one.task.done) < TOTAL
    assert_goes_on_to(straight, tmp_path, SELDOM)


def test_time_is_kept_back_for_a_step_and_a_checkpoint(tmp_path: Path):
    reserves: list[float] = []

    class Watched(Stopping):
        def asked(self, reserve: float = 0.0) -> bool:
            reserves.append(reserve)
            return super().asked(reserve)

    task = Tiny(after=lambda step: time.sleep(0.1 if step == 3 else 0))
    training(tmp_path, OFTEN, task, limit=Watched("1h")).run()
    assert len(reserves) == TOTAL
    assert min(reserves[3:]) >= 0.2
    assert max(reserves) < 60


def test_time_is_kept_back_for_what_an_epochs_end_takes(tmp_path: Path):
    reserves: list[float] = []

    class Watched(Stopping):
        def asked(self, reserve: float = 0.0) -> bool:
            reserves.append(reserve)
            return super().asked(reserve)

    def slowly(epoch: int) -> dict[str, float]:
        time.sleep(0.3)
        return {}

    training(tmp_path, SELDOM, limit=Watched("1h"), after_epoch=slowly).run()
    assert max(reserves[STEPS:]) >= 0.3


@pytest.mark.parametrize("when", ["last step", "last epoch"])
def test_sigterm_at_the_very_end_is_not_forgotten(tmp_path: Path, sigterm, when: str):
    """The training is done, but the job that goes on to another stage must still stop."""
    task = Tiny(after=lambda step: sigterm() if (when, step) == ("last step", TOTAL - 1) else None)

    def last(epoch: int) -> dict[str, float]:
        if (when, epoch) == ("last epoch", EPOCHS):
            sigterm()
        return watch(epoch)

    stopped = False
    try:
        training(tmp_path, task=task, after_epoch=last).run()
    except Stopped as error:
        stopped = error.exit_code == 143
    assert stopped or Stopping().asked()


# --- no room


def run_out_of_room(folder: Path, plan: LoopConfig, limit: int, task: type[Tiny] = Tiny) -> str:
    """Train; after step 4 no file may be longer than `limit` bytes. Return what the user reads."""
    said = folder.with_name("said")

    def no_room(step: int) -> None:
        if step == 4:
            sys.dont_write_bytecode = True  # a cut .pyc would stay in the installation
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def train() -> None:
        try:
            training(folder, plan, task(after=no_room)).run()
        except MasktasError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            said.write_text(str(error))

    assert in_child(train) == 0
    assert not list(folder.rglob("*.tmp"))
    sentence = said.read_text()
    assert "cannot be written" in sentence
    assert "\n" not in sentence
    return sentence


def test_on_a_full_disk_the_last_good_checkpoint_is_left_and_named(tmp_path: Path, straight):
    sentence = run_out_of_room(tmp_path / "run", OFTEN, 900)
    assert "step-000000005.safetensors" in sentence
    assert "The checkpoint of step 4 is whole." in sentence
    assert kept(tmp_path / "run") == [4, 3]
    assert_goes_on_to(straight, tmp_path / "run")


@pytest.mark.parametrize("wanted", ["metrics.jsonl", "The checkpoint of step 0 is whole"])
def test_without_room_for_a_line_the_last_good_checkpoint_is_left_and_named(
    tmp_path: Path, straight, wanted: str
):
    sentence = run_out_of_room(tmp_path / "run", SELDOM, 300)
    assert kept(tmp_path / "run") == [0]
    assert_goes_on_to(straight, tmp_path / "run", SELDOM)
    assert wanted in sentence


def test_without_room_for_a_first_checkpoint_no_step_is_done(tmp_path: Path):
    folder, said = tmp_path / "run", tmp_path / "said"

    def train() -> None:
        sys.dont_write_bytecode = True  # a cut .pyc would stay in the installation
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
        one = training(folder, SELDOM)
        try:
            one.run()
        except MasktasError as error:
            said.write_text(f"{one.task.done} {error}"[:300])

    assert in_child(train) == 0
    assert said.read_text().startswith("[] ")
    assert "step-000000000.safetensors: cannot be written" in said.read_text()


# --- an early end


def enough(folder: Path) -> Callable[[int], bool]:
    """End after the first of the epochs, by what has been logged."""

    def is_enough(epoch: int) -> bool:
        logged = [line["accuracy"] for line in lines_of(folder) if "accuracy" in line]
        assert logged[-1] == epoch / 7, "asked once the epoch is logged"
        return len(logged) == 1

    return is_enough


def test_training_ends_early_where_it_is_told(tmp_path: Path) -> None:
    one = training(tmp_path, is_enough=enough(tmp_path))
    cost = one.run()
    assert one.task.done == list(range(STEPS))
    assert lines_of(tmp_path)[-1]["epoch"] == 1
    assert cost["images"] == STEPS * 4
    assert cost["flops"] == 2 * 4 * sum(100 + step for step in range(STEPS))


@pytest.mark.parametrize("plan", [OFTEN, SELDOM])
@pytest.mark.parametrize("at", [1, STEPS - 1])
def test_killed_and_resumed_it_ends_early_alike(tmp_path: Path, plan: LoopConfig, at: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    one = training(whole, plan, is_enough=enough(whole))
    one.run()

    def die(step: int) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    first = training(killed, plan, Tiny(before=die), is_enough=enough(killed))
    assert in_child(first.run) == -signal.SIGKILL
    again = training(killed, plan, is_enough=enough(killed))
    again.run()
    assert_same(again, killed, ends(one, whole))


def test_stopped_before_the_line_is_logged_it_ends_when_resumed(
    tmp_path: Path, sigterm: Callable[[], None]
) -> None:
    """A stop request that arrives with the last step of the last epoch that is needed."""

    def stop(step: int) -> None:
        if step == STEPS - 1:
            sigterm()

    with pytest.raises(Stopped):
        training(tmp_path, task=Tiny(after=stop), is_enough=enough(tmp_path)).run()
    again = training(tmp_path, is_enough=enough(tmp_path))
    again.run()
    assert again.task.done == []
    assert lines_of(tmp_path)[-1]["epoch"] == 1
