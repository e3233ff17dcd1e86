"""A training that is asked to stop, or has learnt enough, ends with all that it needs to resume."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from masktas.errors import Stopped
from masktas.stopping import Stopping
from masktas.train.checkpoint import Checkpoints
from masktas.train.loop import LoopConfig
from tiny_training import (
    EPOCHS,
    OFTEN,
    SELDOM,
    STEPS,
    TOTAL,
    Tiny,
    assert_resumes_to,
    assert_same,
    ends,
    in_child,
    kept,
    lines_of,
    not_finite,
    training,
    watch,
)

# --- asked to stop


@pytest.mark.parametrize("at", [0, 4, 5, 8, 16])
def test_sigterm_makes_a_checkpoint_at_that_very_step(tmp_path: Path, straight, sigterm, at: int):
    one = training(tmp_path, SELDOM, Tiny(after=lambda step: sigterm() if step == at else None))
    with pytest.raises(Stopped, match=f"Stopped at step {at + 1} of {TOTAL}.*SIGTERM") as caught:
        one.run()
    assert caught.value.exit_code == 143
    assert one.task.done == list(range(at + 1))
    assert kept(tmp_path) == [at + 1, 0]
    assert not Stopping().asked()
    again = assert_resumes_to(straight, tmp_path, SELDOM)
    assert again.task.done == list(range(at + 1, TOTAL))


def test_stopped_after_every_step_it_ends_alike(tmp_path: Path, straight, sigterm):
    for at in range(TOTAL - 1):
        with pytest.raises(Stopped, match=f"step {at + 1} of"):
            training(tmp_path, SELDOM, Tiny(after=lambda _: sigterm())).run()
    assert_resumes_to(straight, tmp_path, SELDOM)


def test_stopped_at_a_bad_step_it_ends_alike(tmp_path: Path, without, sigterm):
    task = Tiny(bad={7: "gradient"}, after=lambda step: sigterm() if step == 7 else None)
    with pytest.raises(Stopped) as caught:
        training(tmp_path, SELDOM, task).run()
    assert caught.value.exit_code == 143
    tensors, meta = Checkpoints(tmp_path / "checkpoints", pytest.fail).load(kept(tmp_path)[0])
    assert not not_finite(tensors)
    assert meta["step"] == 0 or meta["skipped"] == [7]
    assert_resumes_to(without(7), tmp_path, SELDOM, bad={7: "gradient"})


def test_the_end_of_max_time_makes_a_checkpoint_too(tmp_path: Path, straight):
    slow = Tiny(after=lambda step: time.sleep(0.05 if step > 3 else 0))
    one = training(tmp_path, SELDOM, slow, limit=Stopping("0.4s"))
    with pytest.raises(
        Stopped, match=r"Stopped at step \d+ of 18, at the end of --max-time"
    ) as caught:
        one.run()
    assert caught.value.exit_code == 75
    assert kept(tmp_path)[0] == len(one.task.done) < TOTAL
    assert_resumes_to(straight, tmp_path, SELDOM)


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
