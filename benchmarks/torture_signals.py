"""Signals at random moments: how long to wait, what they met, and the next start."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture_files import checkpoint, decoding, half_written, lines, traces
from torture_world import FOLDERS, VERBS, World

TIME_OUT = 300.0


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
        """Whether there was something to resume from: a checkpoint, or rated networks."""
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
