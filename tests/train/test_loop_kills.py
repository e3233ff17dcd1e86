"""A training that is killed, or finds no room on the disk, ends as if nothing had been."""

from __future__ import annotations

import random
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch

from masktas.errors import MasktasError
from masktas.train.checkpoint import Checkpoints
from masktas.train.loop import LoopConfig
from tiny_training import (
    EPOCHS,
    OFTEN,
    SELDOM,
    TOTAL,
    Heard,
    Killed,
    Tiny,
    Trap,
    assert_resumes_to,
    assert_same,
    in_child,
    kept,
    kill_at,
    lines_of,
    training,
    watch,
)

# --- killed


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
        assert_resumes_to(straight, folder, plan)
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
        one = assert_resumes_to(straight, folder, plan)
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
            assert_resumes_to(straight, folder, plan)


@pytest.mark.parametrize("torn", ['{"step": 13, "epo', "\x00\x00", '{"step": 15}'])
def test_killed_while_writing_a_line_it_ends_alike(tmp_path: Path, straight, torn: str):
    kill_at(tmp_path, 13)
    for name in ("metrics.jsonl", "ledger.jsonl"):
        with open(tmp_path / name, "a") as file:
            file.write(torn)
    assert_resumes_to(straight, tmp_path)


def test_lines_after_the_checkpoint_are_written_again_not_twice(tmp_path: Path, straight):
    kill_at(tmp_path, 13, SELDOM)
    assert [line["step"] for line in lines_of(tmp_path)] == [3, 6, 9, 12]
    assert kept(tmp_path) == [0]
    assert_resumes_to(straight, tmp_path, SELDOM)


def test_killed_before_its_first_checkpoint_it_starts_afresh(tmp_path: Path, straight):
    kill_at(tmp_path, 13)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    assert lines_of(tmp_path)
    assert_resumes_to(straight, tmp_path)


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
    one = assert_resumes_to(straight, tmp_path)
    assert one.task.done == [TOTAL - 1]


def test_the_first_checkpoint_is_the_beginning(tmp_path: Path):
    kill_at(tmp_path, 0, SELDOM)
    assert kept(tmp_path) == [0]
    tensors, meta = Checkpoints(tmp_path / "checkpoints", pytest.fail).load(0)
    for name, tensor in Tiny().module.state_dict().items():
        assert torch.equal(tensors[f"module.{name}"], tensor)
    assert meta == {"step": 0, "names": [], "steps": [], "owed": False, "skipped": []}


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
    assert_resumes_to(straight, tmp_path / "run")


@pytest.mark.parametrize("wanted", ["metrics.jsonl", "The checkpoint of step 0 is whole"])
def test_without_room_for_a_line_the_last_good_checkpoint_is_left_and_named(
    tmp_path: Path, straight, wanted: str
):
    sentence = run_out_of_room(tmp_path / "run", SELDOM, 300)
    assert kept(tmp_path / "run") == [0]
    assert_resumes_to(straight, tmp_path / "run", SELDOM)
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
