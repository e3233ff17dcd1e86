"""Kill masktas at random moments, give the same command again, and compare with a quiet run.

    .venv/bin/python benchmarks/torture.py --kills 40 --terms 8 --seed 0

All four stages are run once undisturbed in a tiny world, then again under SIGKILL (and, `--terms`
times, SIGTERM). The moment is random from the start of the process on, so it falls into imports,
decoding, steps, evaluation, writing; every fourth kill waits for a file that is half written, and
the last ones of a stage for its weights and its manifest. How long to wait follows from what the
quiet run took and from what is left to do. Only a process that was alive when it was hit counts; if
a run comes to its end with signals left, another one begins.

At the end every file must be, byte for byte, what the quiet run wrote, and none may be left over
or missing: but for locks, TensorBoard's events and the ledger, and but for time, speed, memory
and attempts in manifests, which tell when and how fast it was. Exit code 1 if anything differs, if
a process that was not killed failed, or if one that was terminated gave a traceback.

Takes about 5 minutes on 2 idle cores, most of it Python's imports. `--keep FOLDER` keeps the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TIME_OUT = 300.0
SPACE = {
    "name": "torture",
    "embed_dim": [16, 24, 32],
    "depth": [2, 3],
    "num_heads": [1, 2, 3],
    "mlp_ratio": [2, 3, 4],
    "head_dim": 8,
    "image_size": 16,
    "patch_size": 4,
    "num_classes": 3,
}
RECIPE = """
[data]
search_share = 0.15
validation_share = 0.1
test_share = 0.2
[runtime]
checkpoint_seconds = {checkpoint_seconds}
[teacher]
epochs = {epochs}
batch_size = 16
decoder_dim = 32
patch_size = 4
embed_dim = 32
depth = 2
num_heads = 2
[supernet]
space = "{space}"
mask_ratio = 0.75
epochs = {epochs}
batch_size = 16
decoder_dim = 32
[search]
max_params = "30K"
mask_ratio = 0.75
population = 8
generations = {generations}
parents = 4
baselines = 2
[finetune]
epochs = {epochs}
batch_size = 16
cutmix = 1.0
ema = 0.9
"""
VERBS = ("teacher", "supernet", "search", "finetune")
FOLDERS = {"search": "search/main", "finetune": "finetune/main"}
# What tells when and how fast it was, not what was made.
UNCOMPARED = (".lock", "ledger.jsonl", "started.json")  # the last one names the run's folder
TIMES = ("seconds", "share_of_peak", "peak_flops", "memory_bytes", "attempts")


def environment() -> dict[str, str]:
    """Return the environment of a process: one thread, and imports that are compiled but once."""
    bytecode = Path(tempfile.gettempdir()) / f"masktas-bytecode-{os.getuid()}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(bytecode)}


def begin_process(tokens: list[str], said: Path) -> subprocess.Popen[bytes]:
    """Start masktas in a new interpreter; its standard error goes to a file."""
    with open(said, "wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "masktas", *tokens],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


@dataclass(frozen=True)
class World:
    """A folder with images and a recipe, how long its stages are, and how processes are started."""

    folder: Path
    images: int = 400
    epochs: int = 30
    generations: int = 90
    checkpoint_seconds: float = 0.1
    begin: Callable[[list[str], Path], subprocess.Popen[bytes]] = begin_process

    def make(self) -> None:
        """Draw images large enough that decoding them takes a while, and write the recipe."""
        rng = np.random.default_rng(0)
        side = np.linspace(0, 6, 256)
        for number in range(self.images):
            kind, (a, b) = number % 3, rng.uniform(0.5, 2, 2)
            waves = (np.sin(a * side) + np.cos(b * side)[:, None], np.sin(a * side * side[:, None]),
                     np.cos(a * side + b * side[:, None]))[kind]  # fmt: skip
            pixels = 128 + 60 * waves[..., None] + rng.normal(0, 9, (256, 256, 3))
            path = self.folder / f"images/{kind}/{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, compress_level=1)
        space = self.folder / "space.json"
        space.write_text(json.dumps(SPACE))
        recipe = RECIPE.format(
            space=space,
            epochs=self.epochs,
            generations=self.generations,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        (self.folder / "recipe.toml").write_text(recipe)

    def tokens(self, verb: str, out: Path) -> list[str]:
        """Return the command line of a stage, without the program."""
        data = [str(self.folder / "images"), "--image-size", "16"] if verb == "teacher" else []
        recipe = str(self.folder / "recipe.toml")
        return [verb, *data, "--out", str(out), "--config", recipe, "--quiet"]


@dataclass(frozen=True)
class Pace:
    """What a stage took undisturbed: seconds until it set to work, and of work; its lines."""

    start: float
    work: float
    lines: int
    decoding: float


@dataclass(frozen=True)
class Hit:
    """A signal that met a living process: when, and what it was doing."""

    verb: str
    number: signal.Signals
    moment: str
    place: str
    lines: int
    checkpoint: int | None
    code: int

    @property
    def kept(self) -> bool:
        """Whether there was something to go on from: a checkpoint, or rated networks."""
        return self.checkpoint is not None or (self.verb == "search" and self.lines > 0)


@dataclass
class Outcome:
    """What came of it all."""

    hits: list[Hit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    quiet: dict[str, Pace] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def kills(self, number: signal.Signals, verb: str | None = None) -> list[Hit]:
        return [hit for hit in self.hits if hit.number == number and verb in (None, hit.verb)]


def finish(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process, but not for ever."""
    try:
        return process.wait(TIME_OUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise RuntimeError(f"process {process.pid} has not ended after {TIME_OUT:.0f} s") from None


def names(folder: Path) -> Iterator[str]:
    """Yield the names of what is in a folder and in its checkpoints, as fast as can be."""
    for place in (folder, folder / "checkpoints"):
        try:
            yield from os.listdir(place)
        except OSError:
            continue


def half_written(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(".tmp")]


def checkpoint(folder: Path) -> int | None:
    """Return the step of the newest checkpoint."""
    steps = (name for name in names(folder) if name.startswith("step-"))
    return max((int(name[5:14]) for name in steps), default=None)


def lines(folder: Path) -> int:
    """Count the lines that are there of what the stage logs: steps, or rated networks."""
    logs = [folder / name for name in ("metrics.jsonl", "history.jsonl")]
    return sum(log.read_bytes().count(b"\n") for log in logs if log.exists())


def decoding(out: Path) -> list[str]:
    return [path.name for path in (out / "data").glob("*") if not (path / "store.json").exists()]


def traces(out: Path, folder: Path) -> tuple[Any, ...]:
    """Return what changes in a run as soon as a stage is at work in it."""
    logs = [folder / name for name in ("metrics.jsonl", "history.jsonl", "ledger.jsonl")]
    written = [log.stat().st_mtime_ns if log.exists() else 0 for log in logs]
    return decoding(out), half_written(folder), checkpoint(folder), *written


def run_quietly(world: World, out: Path, outcome: Outcome) -> None:
    """Run all stages once and measure how long each takes to begin, and then to end."""
    for verb in VERBS:
        folder = out / FOLDERS.get(verb, verb)
        folder.mkdir(parents=True)
        said, before = world.folder / f"quiet-{verb}", traces(out, folder)
        marks = [time.monotonic()]
        process = world.begin(world.tokens(verb, out), said)
        begun: tuple[Callable[[], bool], ...] = (
            lambda: traces(out, folder) != before,  # noqa: B023
            lambda: checkpoint(folder) is not None or lines(folder) > 0,  # noqa: B023
        )
        for is_next in begun:
            while process.poll() is None and not is_next():
                time.sleep(0.002)
            marks.append(time.monotonic())
        if finish(process):
            raise RuntimeError(f"{verb} failed undisturbed: {said.read_text()}")
        start, decoded, end = (mark - marks[0] for mark in (*marks[1:], time.monotonic()))
        outcome.quiet[verb] = Pace(start, end - decoded, lines(folder), decoded - start)


def moments(count: int, verb: str, rng: random.Random) -> list[str]:
    """Plan the kills of a stage, the first one first."""
    if verb == "teacher" and count > 1:
        early = max(1, count // 4)
        return ["decoding"] * early + moments(count - early, "", rng)
    late = ["weights", "manifest", "manifest is there"]
    last = rng.sample(late, min(count // 3, len(late)))
    often = 0.0 if verb == "search" else 0.25  # its journal is appended to, nothing is half written
    return [
        "writing" if rng.random() < often else "any time" for _ in range(count - len(last))
    ] + sorted(last, key=late.index)


def strike(
    process: subprocess.Popen[bytes], number: signal.Signals, seconds: float,
    begun: Callable[[], bool], ripe: Callable[[], bool], hasty: Callable[[], bool],
) -> bool:  # fmt: skip
    """Send a signal so many seconds after something has begun, and when the moment is ripe.

    Returns:
        Whether the process was alive to take it.
    """
    until, due = time.monotonic() + TIME_OUT, float("inf")
    while process.poll() is None and time.monotonic() < until:
        if due == float("inf") and begun():
            due = time.monotonic() + seconds
        if time.monotonic() >= due and ripe():
            process.send_signal(number)
            return number != signal.SIGKILL or finish(process) == -number
        if time.monotonic() < due or not hasty():
            time.sleep(0.0005)
    return False


def send(
    process: subprocess.Popen[bytes], number: signal.Signals, moment: str, out: Path, folder: Path,
    *, pace: Pace, left: int, before: tuple[Any, ...], rng: random.Random,
) -> bool:  # fmt: skip
    """Send a signal at that moment; `left` more are to come before the end of the stage."""

    def written(start: str) -> bool:
        return any(name.startswith(start) for name in half_written(folder))

    ripe: dict[str, Callable[[], bool]] = {
        "writing": lambda: written("."),
        "weights": lambda: written(".weights"),
        "manifest": lambda: written(".manifest"),
        "manifest is there": lambda: (folder / "manifest.json").exists(),
    }
    remaining = pace.work * (1 - lines(folder) / pace.lines)
    seconds, begun = 0.0, lambda: traces(out, folder) != before
    if moment == "decoding":
        seconds, begun = rng.uniform(0, pace.decoding), lambda: decoding(out) != before[0]
    elif moment == "any time" and rng.random() < 0.2:
        seconds, begun = rng.uniform(0, pace.start), lambda: True  # imports, above all
    elif moment in ("any time", "writing"):
        seconds = rng.uniform(0, 1.8 * remaining / (left + 2))
    return strike(
        process, number, seconds, begun, ripe.get(moment, lambda: True),
        hasty=lambda: lines(folder) == pace.lines,
    )  # fmt: skip


def place(out: Path, folder: Path, before: tuple[Any, ...]) -> str:
    """Say what a process was doing when it was killed, by what it left."""
    now = traces(out, folder)
    if set(now[0]) - set(before[0]):
        return "decoding"
    if (folder / "manifest.json").exists():
        return "after its manifest"
    fresh = [name for name in now[1] if name not in before[1]]
    if fresh:
        return f"writing {fresh[0][1:].rsplit('.', 2)[0]}"
    return "working" if now != before else "starting"


def disturb(
    world: World, out: Path, verb: str, plan: list[tuple[signal.Signals, str]], outcome: Outcome,
    rng: random.Random, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Bring a stage to its end in spite of the signals that are planned for it."""
    folder, pace = out / FOLDERS.get(verb, verb), outcome.quiet[verb]
    folder.mkdir(parents=True, exist_ok=True)
    said, began = world.folder / f"{out.name}-{verb}", time.monotonic()
    while plan:
        number, moment = plan.pop(0)
        before = traces(out, folder)
        outcome.starts[verb] = outcome.starts.get(verb, 0) + 1
        process = world.begin(world.tokens(verb, out), said)
        hit = send(
            process, number, moment, out, folder,
            pace=pace, left=len(plan), before=before, rng=rng,
        )  # fmt: skip
        where = place(out, folder, before)
        code = finish(process)
        if hit:
            one = Hit(verb, number, moment, where, lines(folder), checkpoint(folder), code)
            outcome.hits.append(one)
            kept = "" if one.checkpoint is None else f", checkpoint of step {one.checkpoint}"
            say(f"{verb:9} {number.name} {where}: {one.lines} of {pace.lines} lines{kept}")
        fine = (0, -number, 128 + number) if number == signal.SIGTERM and hit else (0, -number)
        if code not in fine or "Traceback" in said.read_text():
            outcome.problems.append(f"{verb} ended with {code} {moment}: {said.read_text()}")
            return
        if code == 0:
            break
    # also where it is finished already: what the kill left behind is to be cleared away
    outcome.starts[verb] = outcome.starts.get(verb, 0) + 1
    code = finish(world.begin(world.tokens(verb, out), said))
    if code:
        outcome.problems.append(f"{verb} could not go on: it ended with {code}: {said.read_text()}")
    outcome.seconds[verb] = outcome.seconds.get(verb, 0.0) + time.monotonic() - began


def plans(
    kills: int, terms: int, rng: random.Random
) -> dict[str, list[tuple[signal.Signals, str]]]:
    """Divide the signals over the stages; the terminations fall among the kills, at any time."""
    planned: dict[str, list[tuple[signal.Signals, str]]] = {}
    for index, verb in enumerate(VERBS):
        share = len(range(index, kills, len(VERBS)))
        plan = [(signal.SIGKILL, moment) for moment in moments(share, verb, rng)]
        for _ in range(index, terms, len(VERBS)):
            plan.insert(rng.randint(0, len(plan)), (signal.SIGTERM, "any time"))
        planned[verb] = plan
    return planned


def compared(folder: Path) -> dict[str, Path]:
    """List the files that must be the same, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path
        for path in files
        if path.name not in UNCOMPARED and "tensorboard" not in path.parts
    }


def timeless(manifest: Path) -> Any:
    content = json.loads(manifest.read_text())
    del content["finished"]
    content["cost"] = {key: value for key, value in content["cost"].items() if key not in TIMES}
    return content


def differences(whole: Path, other: Path) -> list[str]:
    """Name every file that is not what it is in the quiet run, is missing, or is left over."""
    here, there = compared(whole), compared(other)
    found = [f"{name} is missing" for name in here.keys() - there.keys()]
    found += [f"{name} is left over" for name in there.keys() - here.keys()]
    for name in here.keys() & there.keys():
        if here[name].name == "manifest.json":
            same = timeless(here[name]) == timeless(there[name])
        else:
            same = here[name].read_bytes() == there[name].read_bytes()
        if not same:
            found.append(f"{name} differs")
    empty = (path for path in other.rglob("*") if path.is_dir() and path.name == "checkpoints")
    found += [f"{path.relative_to(other)}/ is left over" for path in empty]
    return [f"{other.name}: {problem}" for problem in sorted(found)]


def torture(
    world: World, *, kills: int, terms: int, seed: int, say: Callable[[str], None] = print
) -> Outcome:
    """Run quietly, then disturbed until that many signals have hit, and compare."""
    outcome, rng = Outcome(), random.Random(seed)
    world.make()
    whole = world.folder / "whole"
    run_quietly(world, whole, outcome)
    missing, number = (kills, terms), 0
    while any(missing) and not outcome.problems:
        number += 1
        out = world.folder / f"killed-{number}"
        for verb, plan in plans(*missing, rng).items():
            disturb(world, out, verb, plan, outcome, rng, say)
            if outcome.problems:
                return outcome
        outcome.problems += differences(whole, out)
        met = len(outcome.kills(signal.SIGKILL)), len(outcome.kills(signal.SIGTERM))
        missing = max(0, kills - met[0]), max(0, terms - met[1])
    return outcome


def table(outcome: Outcome) -> str:
    """Return where the kills fell, stage by stage."""
    head = (
        "stage", "kills", "starting", "decoding", "working", "writing", "manifest written",
        "with something kept", "SIGTERM", "clean", "starts", "quiet, s", "disturbed, s",
    )  # fmt: skip
    rows = [head]
    for verb in (*VERBS, "all"):
        chosen = None if verb == "all" else verb
        hits, pace = outcome.kills(signal.SIGKILL, chosen), outcome.quiet.get(verb)
        quiet = [pace] if pace else list(outcome.quiet.values())
        counts = [
            sum(hit.place.startswith(word) for hit in hits)
            for word in ("starting", "decoding", "working", "writing", "after")
        ]
        terms = outcome.kills(signal.SIGTERM, chosen)
        clean = sum(hit.code == 128 + signal.SIGTERM for hit in terms)
        whose = [name for name in outcome.starts if chosen in (None, name)]
        rows.append((
            verb, len(hits), *counts, sum(hit.kept for hit in hits),
            len(terms), clean, sum(outcome.starts[name] for name in whose),
            f"{sum(one.start + one.decoding + one.work for one in quiet):.1f}",
            f"{sum(outcome.seconds.get(name, 0.0) for name in whose):.1f}",
        ))  # fmt: skip
    cells = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([cells[0], f"|{' --- |' * len(head)}", *cells[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--terms", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=World.epochs)
    parser.add_argument("--generations", type=int, default=World.generations)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    compiled = [sys.executable, "-c", "import masktas.stages.run"]  # writes the bytecode
    subprocess.run(compiled, env=environment(), check=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        world = World(folder.resolve(), epochs=arguments.epochs, generations=arguments.generations)
        outcome = torture(world, kills=arguments.kills, terms=arguments.terms, seed=arguments.seed)
    print(f"\n{table(outcome)}\n")
    print(*(f"PROBLEM: {problem}" for problem in outcome.problems), sep="\n")
    print(
        f"{len(outcome.kills(signal.SIGKILL))} kills, {len(outcome.kills(signal.SIGTERM))} "
        f"terminations, {len(outcome.problems)} problems, {time.monotonic() - began:.0f} s"
    )
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
