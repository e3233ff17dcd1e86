"""A training of a tiny network: what can go wrong goes wrong by the number of the step."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from masktas.console import Console
from masktas.stopping import Stopping
from masktas.train.checkpoint import Checkpoints, TrainingState
from masktas.train.log import Ledger
from masktas.train.loop import Environment, LoopConfig, Training
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


def assert_resumes_to(
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


class Trap:
    """Counts the lines of masktas's own code that are run, and kills at one of them."""

    WATCHED = ("loop.py", "checkpoint.py", "log.py", "artifacts.py", "step.py", "tiny_training.py")

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


def kill_at(folder: Path, at: int, plan: LoopConfig = OFTEN, **of_task: Any) -> None:
    def die(step: int) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        training(folder, plan, Tiny(before=die, **of_task)).run()


def not_finite(tensors: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in tensors.items() if not tensor.isfinite().all()}
