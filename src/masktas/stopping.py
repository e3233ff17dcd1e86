"""Stop requests: SIGTERM, as sent by batch queues, or the end of `--max-time`.

A loop that can stop cleanly enters `listening()` and checks `asked()` between its steps. Elsewhere
SIGTERM ends the process at once: all files are written atomically, so only time is lost.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from masktas import launch
from masktas.errors import ConfigError, Stopped

TERMINATED = 128 + signal.SIGTERM
TIME_IS_UP = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, resumes
RESUME = "Nothing is lost: run the same command again to resume."
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Process:
    """State of SIGTERM in this process; signals are per process, so this is global."""

    listeners = 0
    terminated = False


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `9m`, `1.5h`, `1h30m`; a bare number is seconds.

    Raises:
        ConfigError: if it is none of these, or not above 0.
    """
    if len(text) > 80:
        raise ConfigError(f"{text[:80]!r}... is no duration: write 90s, 9m, 1.5h or 1h30m.")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    whole = "".join(number + unit for number, unit in parts) == text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        parts, whole = [(text.strip(), "s")], True
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not whole or seconds <= 0:
        raise ConfigError(f"{text!r} is no duration: write 90s, 9m, 1.5h or 1h30m.")
    return seconds


def as_duration(seconds: float) -> str:
    """Return what `parse_duration` reads, a millisecond at least."""
    return f"{max(seconds, 0.001):.3f}s"


def request() -> None:
    """Request a stop of the listening loop; without one, or at the second request, exit at once."""
    if not _Process.listeners or _Process.terminated:
        raise SystemExit(TERMINATED)  # no library swallows this, as some do with errors
    _Process.terminated = True


def on_sigterm(_: int, __: FrameType | None) -> None:
    """Request a stop, and say so if it ends the process at once."""
    try:
        request()
    except SystemExit:
        if launch.rank() == 0:
            print(f"masktas: Stopped by SIGTERM. {RESUME}", file=sys.stderr)
        raise


def install() -> None:
    """Handle signals from now on; called by the command line, not on import."""
    signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see __main__
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leaving() -> None:
    """Ignore SIGTERM from now on: torchrun sends it when the first process has exited."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Stopping:
    """When a stage has to stop.

    Args:
        max_time: a duration from now on, or None for no limit.
    """

    def __init__(self, max_time: str | None = None) -> None:
        self.began = time.monotonic()
        self._seconds = parse_duration(max_time) if max_time else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the time is up, or None if there is no limit."""
        if self._seconds is None:
            return None
        return self.began + self._seconds - time.monotonic()

    @property
    def time_left(self) -> str | None:
        """The duration that is left, as `--max-time` of another stage; None without a limit."""
        left = self.seconds_left
        return None if left is None else as_duration(left)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Defer SIGTERM inside the context until the loop checks `asked()`.

        A signal that arrives after the last check is left for the next `asked()`.
        """
        _Process.listeners += 1
        try:
            yield
        except Stopped:
            _Process.terminated = False  # handled
            raise
        finally:
            _Process.listeners -= 1

    def asked(self, reserve: float = 0.0) -> bool:
        """Return whether to stop now, given that stopping takes `reserve` seconds."""
        left = self.seconds_left
        return _Process.terminated or (left is not None and left <= reserve)

    def error(self, what: str) -> Stopped:
        """Return the error to raise; `what` states the progress of the loop."""
        if _Process.terminated:
            return Stopped(f"{what}, on SIGTERM. {RESUME}", exit_code=TERMINATED)
        return Stopped(f"{what}, at the end of --max-time. {RESUME}", exit_code=TIME_IS_UP)
