"""Steps whose numbers are not finite are left out as if they had never been."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch

from masktas.errors import MasktasError, Stopped
from masktas.train.checkpoint import Checkpoints
from masktas.train.loop import RECOVERIES, LoopConfig
from tiny_training import (
    EPOCHS,
    OFTEN,
    RARELY,
    SELDOM,
    STEPS,
    TOTAL,
    EveryThree,
    Heard,
    Tiny,
    Trap,
    assert_resumes_to,
    assert_same,
    ends,
    in_child,
    kept,
    lines_of,
    not_finite,
    plan_of,
    training,
)


def test_leaving_a_step_out_changes_what_is_learnt(straight, without):
    for step in (0, 7, TOTAL - 1):
        assert not torch.equal(without(step)[0]["module.0.weight"], straight[0]["module.0.weight"])


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
    assert_resumes_to(without(8), tmp_path, SELDOM, bad={8: "loss"})
