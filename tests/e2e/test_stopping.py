"""Asked to stop, by SIGTERM or by the clock: at a checkpoint, with a sentence, on from there."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from masktas.files import file_digest
from worlds import World, count_lines, ended, manifest, start, started, until, without_advice

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
TERMINATED = 128 + signal.SIGTERM
TIME_IS_UP = 75
RESUME = "Nothing is lost: run the same command again to resume."
LOGS = {
    "teacher": "teacher/metrics.jsonl",
    "supernet": "supernet/metrics.jsonl",
    "search": "search/main/history.jsonl",
    "finetune": "finetune/main/metrics.jsonl",
}


@pytest.fixture(scope="module")
def long(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe with stages of a second or two each."""
    recipe = tmp_path_factory.mktemp("long") / "recipe.toml"
    text = world.recipe.read_text().replace("generations = 4", "generations = 16")
    recipe.write_text(text.replace("\nepochs = 4", "\nepochs = 6"))
    return recipe


@pytest.fixture(scope="module")
def whole(world: World, long: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(*command(world, long, folder / "run"), errors=folder / "said")
    assert ended(process) == 0, (folder / "said").read_text()
    return folder / "run"


def command(world: World, long: Path, out: Path) -> tuple[object, ...]:
    return ("run", world.images, "--out", out, "--config", long)


def assert_identical(one: Path, two: Path) -> None:
    for log in LOGS.values():
        for name in (log, str(Path(log).with_name("weights.safetensors"))):
            assert file_digest(one / name) == file_digest(two / name), name


@pytest.mark.slow
def test_terminated_in_every_stage_a_run_ends_the_same(
    world: World, long: Path, whole: Path, tmp_path: Path, masktas: Call
) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    for verb, log in LOGS.items():
        with started(*command(world, long, out), errors=said) as process:
            until(lambda log=log: count_lines(out / log) >= 3, process)
            process.terminate()
            assert ended(process) == TERMINATED, verb
        step, candidates = r"at step (\d+) of \d+", r"after (\d+) of \d+ candidates \(search\)"
        what = candidates if verb == "search" else step
        sentence = re.findall(rf"^masktas: Stopped {what}, on SIGTERM\. (.*)$",
                              said.read_text(), re.MULTILINE)  # fmt: skip
        assert len(sentence) == 1, said.read_text()
        done, rest = sentence[0]
        assert rest == RESUME
        if verb == "search":
            assert count_lines(out / log) == int(done)
        else:
            path = (out / log).parent / f"checkpoints/step-{int(done):09d}.safetensors"
            assert path.exists(), "nothing is lost"
    code, _, text = masktas(*command(world, long, out))
    assert code == 0
    assert "Resuming from step" in text
    assert_identical(whole, out)


@pytest.mark.slow
def test_sigterm_in_the_last_step_of_a_stage_is_not_forgotten(world: World, tmp_path: Path) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    # two steps for each stage, long ones
    more = ("--epochs", 2, "--batch-size", 130, "--accumulate", 130, "--config", world.recipe)
    with started("run", world.images, "--out", out, *more, errors=said) as process:
        until(lambda: count_lines(out / "teacher/metrics.jsonl") == 1, process)
        process.terminate()
        assert ended(process) == TERMINATED, said.read_text()
    assert said.read_text().count(f"on SIGTERM. {RESUME}") == 1
    assert not (out / "supernet").exists()


@pytest.mark.slow
def test_every_stage_stops_in_time_and_gets_on_each_time(
    world: World, long: Path, whole: Path, tmp_path: Path, masktas: Call
) -> None:
    out = tmp_path / "run"
    settings = manifest(whole / "teacher")["settings"]["settings"]
    names = ("patch_size", "embed_dim", "depth", "num_heads")
    shape = [f"--{name.replace('_', '-')}={settings[name]}" for name in names]
    for verb in LOGS:
        given = [world.images, "--image-size=16", *shape] if verb == "teacher" else []
        if verb == "supernet":  # as a run trains it, which knows the budget
            given = ["--sampler=focus", "--max-params=15K"]
        tokens = (verb, *given, "--out", out, "--config", long, "--quiet")
        if verb == "finetune":  # from refined weights
            refine = ("refine", *tokens[1:])
            code, _, said = masktas(*refine, "--max-time", "0.001s")
            assert (code, "Stopped at step" in said) == (TIME_IS_UP, True), said
            assert masktas(*refine)[0] == 0
        before: tuple[str, int] = ("", 0)
        for limit in ("0.001s", "0.001s", "0.3s"):  # too short for anything, and for something
            code, printed, said = masktas(*tokens, "--max-time", limit)
            if code == 0:
                break
            assert code == TIME_IS_UP, said
            assert printed == ""
            assert re.fullmatch(
                r"masktas: Stopped (at step \d+ of \d+|after \d+ of \d+ candidates \([a-z ]+\)), "
                rf"at the end of --max-time\. {RESUME}\n",
                without_advice(said).replace("Warning: ", ""),
            ), said
            done, what = re.findall(r"(?:step|after) (\d+) of (.*), at the end", said)[0]
            if what == before[0]:  # not yet the next of a search's three parts
                assert int(done) > before[1]
            before = (what, int(done))
        assert before[1] > 0, "it was stopped"
        assert masktas(*tokens)[0] == 0
    assert_identical(whole, out)


@pytest.mark.slow
def test_the_time_is_that_of_the_whole_run(
    world: World, long: Path, tmp_path: Path, masktas: Call
) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    teacher, supernet, rest = re.split(r"(?=\n\[supernet\]|\n\[search\])", long.read_text())
    recipe.write_text(teacher + supernet.replace("\nepochs = 6", "\nepochs = 9999") + rest)
    limit = 2.0
    while not (out / "supernet/ledger.jsonl").exists():  # a machine may be so busy
        limit *= 2
        tokens = ("run", world.images, "--out", out, "--config", recipe, "--overwrite")
        code, _, said = masktas(*tokens, "--max-time", f"{limit}s")
        assert code == TIME_IS_UP, said
        assert said.count(f"at the end of --max-time. {RESUME}") == 1
    spent = json.loads((out / "supernet/ledger.jsonl").read_text().splitlines()[-1])["seconds"]
    assert 0 < spent <= limit - manifest(out / "teacher")["cost"]["seconds"]


def test_losses_that_stay_broken_end_with_a_sentence(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    tokens = ("teacher", world.images, "--out", tmp_path / "run", "--config", world.recipe,
              "--image-size", 16, "--patch-size", 4, "--embed-dim", 32, "--depth", 2,
              "--num-heads", 2, "--lr", "1e30", "--quiet")  # fmt: skip
    for attempt in range(2):  # what has been left out is remembered
        code, printed, said = masktas(*tokens)
        assert (code, printed) == (2, "")
        *warnings, sentence = without_advice(said).splitlines()
        assert len(warnings) == (0 if attempt else 3), said
        assert all("will be skipped" in warning for warning in warnings)
        assert re.match(r"masktas: teacher: \w+ is (nan|inf) at step \d+", sentence)
        assert "The last checkpoint is kept" in sentence
        assert "a lower --lr" in sentence
    assert list((tmp_path / "run/teacher/checkpoints").glob("step-*"))
    assert not (tmp_path / "run/teacher/weights.safetensors").exists()
