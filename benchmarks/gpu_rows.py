"""What benchmarks/gpu.py consists of: parts in a time limit; a failure loses no other part."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

OK, FAILED, NOT_RUN = "ok", "failed", "not run"
HEAD = ("part", "what", "result", "limit", "status", "seconds")


class NotRun(Exception):
    """Raised by a part that this machine has no use for; says why."""


class OutOfTime(BaseException):
    """Raised within a part when the time limit is over; no `except Exception` swallows it."""


@dataclass(frozen=True)
class Finding:
    """What a part has found.

    Attributes:
        result: in words and numbers.
        limit: what the result has to keep to; empty for a mere measurement.
        kept: whether it does.
        numbers: the same for programs.
    """

    result: str
    limit: str = ""
    kept: bool = True
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: short, to choose it by.
        what: what it does.
        needs: seconds that must be left to start it.
        run: is given the seconds that are left.
    """

    name: str
    what: str
    needs: float
    run: Callable[[float], Finding]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    part: str
    what: str
    result: str
    limit: str
    status: str
    seconds: float
    numbers: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_parts(
    parts: Sequence[Part],
    until: float,
    *,
    after_each: Callable[[Row], None] = lambda row: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Run parts one after the other until `clock` says `until`; return a row of each."""
    rows = []
    for part in parts:
        row = _run(part, until, clock)
        rows.append(row)
        after_each(row)
    return rows


def _run(part: Part, until: float, clock: Callable[[], float]) -> Row:
    began = clock()
    left = until - began
    if left < part.needs:
        why = f"{max(0, left):.0f} s were left, and it needs {part.needs:.0f}"
        return Row(part.name, part.what, why, "", NOT_RUN, 0.0, {})
    try:
        with _stopped_after(left):
            found = part.run(left)
    except NotRun as error:
        return Row(part.name, part.what, str(error), "", NOT_RUN, clock() - began, {})
    except OutOfTime:
        why = f"it was not done when the time was up, after {left:.0f} s"
        return Row(part.name, part.what, why, "", FAILED, clock() - began, {})
    except Exception as error:  # whatever it is, the other parts are worth running
        why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return Row(part.name, part.what, why, "", FAILED, clock() - began, {})
    status = OK if found.kept else FAILED
    return Row(
        part.name, part.what, found.result, found.limit, status, clock() - began, found.numbers
    )


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block once this long has passed; an alarm set before is set again."""

    def stop(*_: object) -> None:
        raise OutOfTime

    handler = signal.signal(signal.SIGALRM, stop)
    began, (left, _) = time.monotonic(), signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            rest = left - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(0.001, rest))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    for row in rows:
        cells = (row.part, row.what, row.result, row.limit, row.status, f"{row.seconds:.0f}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
