"""The section of the watched report about stages that have begun and are not finished.

It is made from what a stage writes while it works: metrics, ledger, history, rounds. A stage that
was stopped looks the same, but its files are no longer written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masktas.artifacts import HISTORY, LEDGER, METRICS, ROUNDS, SETTINGS, STARTED, Run, Stage
from masktas.files import read_json, read_lines
from masktas.formats import counted, format_seconds
from masktas.space import Budget, format_quantity
from masktas.stages.common import charts
from masktas.stages.report.explorer import Points, explorer
from masktas.stages.report.page import Explorer, Figure, Section, Text, chart, html
from masktas.stages.report.training_section import course

if TYPE_CHECKING:
    from markupsafe import Markup

LOGS = (METRICS, LEDGER, HISTORY, ROUNDS)
QUIET = 600.0  # seconds without a new line after which a stage may have been stopped
NETWORKS = "networks.jsonl"  # of a validation: the networks that were measured


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an unfinished stage is.

    Attributes:
        title: the folder of the stage within the run.
        done: in words, such as `epoch 3.2 of 20`; empty before anything was logged.
        seconds_left: from the last line on; None where nothing is known of it.
        best: the best network so far, in words; empty where there is none.
        written: when its files were last written, in seconds since 1970.
        quiet: whether that is so long ago that the stage may have been stopped.
    """

    title: str
    done: str
    seconds_left: float | None
    best: str
    written: float
    quiet: bool

    @classmethod
    def of(cls, stage: Stage, run: Run) -> Progress:
        """Read the progress of an unfinished stage."""
        settings = read_json(stage.folder / SETTINGS).get("settings") or {}
        ledger = read_lines(stage.folder / LEDGER)
        history, networks = (read_lines(stage.folder / name) for name in (HISTORY, NETWORKS))
        left = ledger[-1].get("seconds_left") if ledger else None
        best = ""
        if stage.name == "search":
            bounded = settings.get("strategy") != "exhaustive"
            most = bounded * settings.get("population", 0) * settings.get("generations", 0)
            done = _of(len(history), most, "network") if history else ""
            best, left = _best(history), _left(ledger, len(history), most)
        elif stage.name == "validate":
            most = settings.get("num_networks") or 0
            done = _of(len(networks), most, "network") if networks else ""
            left = _left(ledger, len(networks), most)
        elif stage.name == "refine":
            rounds = str(settings.get("rounds", "")).count(",") + 1
            done = f"round {len(read_lines(stage.folder / ROUNDS)) + 1} of {rounds}"
        else:
            done = _epochs(read_lines(stage.folder / METRICS), settings)
        title = str(stage.folder.relative_to(run.folder))
        return cls(title, done, left, best, last_written(stage), is_quiet(stage))


def last_written(stage: Stage) -> float:
    """Return when the files of a stage were last written, in seconds since 1970."""
    times = [0.0]
    for path in (stage.folder / name for name in (*LOGS, NETWORKS, SETTINGS, STARTED)):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def is_quiet(stage: Stage) -> bool:
    """Return whether a stage has written nothing for so long that it may have been stopped."""
    return time.time() - last_written(stage) > QUIET


def progress_sections(run: Run) -> Iterator[Section]:
    """Yield the section about unfinished stages, if there are any, the last written first."""
    stages = sorted(run.unfinished(), key=last_written, reverse=True)
    parts: list[Text | Figure | Explorer] = []
    for stage in stages:
        progress = Progress.of(stage, run)
        parts.append(Text(_sentence(progress), "" if progress.quiet else "lead"))
        if not progress.quiet:
            parts += _figures(stage)
    if parts:
        yield Section("In progress", parts)


def _sentence(one: Progress) -> Markup:
    """Say how far a stage is, and when it will be finished."""
    clock = time.strftime("%H:%M:%S", time.localtime(one.written))
    if one.quiet:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.written))
        return html(
            "<b>{}</b>{}: not finished, last written at {}. If it was stopped, the same command "
            "resumes it.",
            one.title, f", {one.done}" if one.done else "", day,
        )  # fmt: skip
    left = ""
    if one.seconds_left is not None:
        end = time.strftime("%H:%M", time.localtime(one.written + one.seconds_left))
        left = f"; {format_seconds(one.seconds_left)} left at the last line, until about {end}"
    return html(
        "<b>{}</b>: {}{}.{} Last written at {}.",
        one.title, one.done or "it has begun, nothing is logged yet", left,
        f" {one.best}" if one.best else "", clock,
    )  # fmt: skip


def _figures(stage: Stage) -> Iterator[Figure | Explorer]:
    """Yield the networks and the curves of a stage so far."""
    if history := read_lines(stage.folder / HISTORY):
        points = Points(history)
        points.note_best()
        name, about = f"search/{stage.folder.name}", "Each point is a network that was rated."
        yield explorer(name, points, Budget(), figures=[], caption=about)
        caption = "Each network in the order of the search; the line is the best so far."
        yield Figure(chart(charts.progress(history)), caption, wide=True)
    logs = [stage.folder / METRICS, *sorted(stage.folder.glob(f"round-*/{METRICS}"))]
    lines = read_lines(next((path for path in reversed(logs) if path.exists()), logs[0]))
    if charts.curves(lines):
        yield Figure(chart(charts.losses(lines)), course(lines))


def _epochs(lines: list[dict[str, Any]], settings: Mapping[str, Any]) -> str:
    """Say how many epochs a training has made."""
    if not lines:
        return ""
    most = settings.get("epochs")
    return f"epoch {lines[-1]['epoch']:.3g}" + (f" of {most:,}" if isinstance(most, int) else "")


def _of(number: int, most: int, noun: str) -> str:
    return f"{counted(number, noun)} of at most {most:,}" if most else counted(number, noun)


def _left(ledger: list[dict[str, Any]], done: int, most: int) -> float | None:
    """Return the seconds until `most` networks are rated, at the speed of the present attempt."""
    if not ledger or not done or done >= most:
        return None
    mine = [line for line in ledger if line["attempt"] == ledger[-1]["attempt"]]
    rated = mine[-1]["step"] - mine[0]["step"]
    seconds = mine[-1]["seconds"] - mine[0]["seconds"]
    return (most - done) * seconds / rated if rated > 0 else None


def _best(history: list[dict[str, Any]]) -> str:
    """Describe the best network that was rated on all images."""
    complete = [line for line in history if line["complete"]]
    if not complete:
        return ""
    best = max(complete, key=lambda line: line["rating"])
    names = (("params", "parameters"), ("macs", "MACs"))
    costs = [f"{format_quantity(best[key])} {name}" for key, name in names if key in best]
    return f"Current best: rating {best['rating']:.4f}, {', '.join(costs)}."
