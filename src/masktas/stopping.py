"""Being asked to stop: by SIGTERM, as queues do, or by the end of `--max-time`.

A loop that can stop cleanly says so with `listening()` and looks at `asked()` between its steps.
Elsewhere SIGTERM ends the process at once: every file is written whole or not at all, so nothing
is lost but the time.
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
TIME_IS_UP = 75  # EX_TEMPFAIL of sysexits.h: the same command, given again, goes on
GO_ON = "Nothing is lost: give the same command again to go on."
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Process:
    """What SIGTERM does to this process: signals are its alone, so this is too."""

    listeners = 0
    terminated = False


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `9m`, `1.5h`, `1h30m`; a bare number is seconds.

    Raises:
        ConfigError: if it is none of these, or not above 0.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    whole = "".join(number + unit for number, unit in parts) == text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        parts, whole = [(text.strip(), "s")], True
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not whole or seconds <= 0:
        raise ConfigError(f"{text!r} is no duration: write 90s, 9m, 1.5h or 1h30m.")
    return seconds


def on_sigterm(_: int, __: FrameType | None) -> None:
    """Ask the loop that listens to stop; where none does, or it was asked already, stop at once."""
    if not _Process.listeners or _Process.terminated:
        if launch.rank() == 0:
            print(f"masktas: Stopped by SIGTERM. {GO_ON}", file=sys.stderr)
        raise SystemExit(TERMINATED)  # no library swallows this, as some do with errors
    _Process.terminated = True


def install() -> None:
    """Handle SIGTERM from now on; for the command line, not for those who import us."""
    signal.signal(signal.SIGTERM, on_sigterm)


def leaving() -> None:
    """Take no notice of SIGTERM any more: torchrun sends it when the first process has gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Stopping:
    """When to stop.

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

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Have SIGTERM wait until the loop within has looked at `asked()`.

        One that comes too late for the loop is left to whoever asks next.
        """
        _Process.listeners += 1
        try:
            yield
        except Stopped:
            _Process.terminated = False  # heard
            raise
        finally:
            _Process.listeners -= 1

    def asked(self, reserve: float = 0.0) -> bool:
        """Say whether to stop now: `reserve` seconds are needed for what is done before that."""
        left = self.seconds_left
        return _Process.terminated or (left is not None and left <= reserve)

    def error(self, what: str) -> Stopped:
        """Return the error to raise: `what` says how far the loop came."""
        if _Process.terminated:
            return Stopped(f"{what}, asked by SIGTERM. {GO_ON}", exit_code=TERMINATED)
        return Stopped(f"{what}, as --max-time asks. {GO_ON}", exit_code=TIME_IS_UP)
