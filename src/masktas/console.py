"""Terminal output of a running stage: progress bars with losses and time left, warnings, tables.

All of it goes to standard error; standard output is for results. Terminal escapes in names and
other texts from outside are printed as text. If standard error is not a
terminal (a log file), a bar becomes one line every few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from masktas import launch
from masktas.formats import format_seconds, shown

LINE_SECONDS = 10.0
FILE_WIDTH = 200  # columns of a table in a log file, at most


class Bar:
    """Progress of one long loop; use as a context manager."""

    def __init__(self, console: RichConsole, label: str, total: int | None, start: int = 0) -> None:
        self._console, self._label, self._total = console, shown(label), total
        self._start, self._began, self._printed = start, time.monotonic(), time.monotonic()
        self._rich: Progress | None = None
        if console.is_terminal and not console.quiet:
            self._rich = Progress(
                TextColumn("{task.description:>10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._rich.add_task(self._label, total=total, completed=start, text="")

    def __enter__(self) -> Bar:
        if self._rich:
            self._rich.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich:
            self._rich.stop()

    def update(self, completed: int, text: str = "") -> None:
        """Show the number of completed items and a short text."""
        text = shown(text)
        if self._rich:
            self._rich.update(self._task, completed=completed, text=text)
            return
        if self._console.quiet:
            return
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS or completed == self._total:
            self._printed = now
            print(
                f"{self._label}: {self._how_far(completed, now, text)}",
                file=self._console.file,
                flush=True,
            )

    def _how_far(self, completed: int, now: float, text: str) -> str:
        if self._total is None:
            return f"{completed} {text}"
        pace = (now - self._began) / max(1, completed - self._start)
        left = format_seconds(pace * (self._total - completed))
        return f"{completed}/{self._total} {text} ({left} left)"


class Console:
    """Messages to the user; with `quiet`, warnings only.

    Of several processes of a job only the first one prints.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        silent = launch.rank() > 0
        self._out = RichConsole(
            stderr=True,
            highlight=False,
            soft_wrap=True,
            markup=False,
            emoji=False,
            quiet=silent,
        )
        if not self._out.is_terminal:
            self._out.width = FILE_WIDTH
        self._quiet = RichConsole(quiet=True) if quiet or silent else None
        self._said: set[str] = set()

    @property
    def _talk(self) -> RichConsole:
        return self._quiet or self._out

    @property
    def width(self) -> int:
        """Characters of a line."""
        return self._out.width

    def say(self, text: str, *, once: bool = False) -> None:
        """Print a sentence; if `once`, unless it has been printed before."""
        if once and text in self._said:
            return
        self._said.add(text)
        self._talk.print(shown(text, keep="\n"), markup=False)

    def warn(self, text: str, *, once: bool = False) -> None:
        """Print a warning, even if `quiet`; if `once`, unless it has been printed before."""
        if once and text in self._said:
            return
        self._said.add(text)
        self._out.print(f"Warning: {shown(text)}", style="yellow", markup=False)

    @contextmanager
    def bar(self, label: str, total: int | None, start: int = 0) -> Iterator[Bar]:
        """Show progress of a loop; `total` is None if its length is unknown."""
        with Bar(self._talk, label, total, start) as bar:
            yield bar

    def table(self, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table, numbers right-aligned, the first column left."""
        table = Table(
            title=shown(title, keep="\n"), title_justify="left", title_style="bold", pad_edge=False
        )
        for position, name in enumerate(header):
            table.add_column(shown(name, keep="\n"), justify="right" if position else "left")
        for row in rows:
            table.add_row(*(shown(cell, keep="\n") for cell in row))
        self._talk.print(table)
