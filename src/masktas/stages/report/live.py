"""The page of a run that trains, made anew when files of the run have changed.

What is known of finished stages is kept until another stage is finished. What trains is drawn anew
when its files have changed and the page is asked for, for no more than a tenth of the time.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from masktas.artifacts import MANIFEST, Run, Stage
from masktas.errors import MasktasError
from masktas.formats import shown
from masktas.stages.report.page import Reported, Section, Text
from masktas.stages.report.progress_section import is_quiet, progress_sections
from masktas.stages.report.render import render
from masktas.stages.report.stage import finished_sections, location_of

REST = 9  # times as long as the page took to make, at least, before it is made again
# Files may be damaged, or half-written where a file system does not rename them at once.
UNREADABLE = (
    MasktasError, OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError,
)  # fmt: skip

State = tuple[Any, ...]  # of files, to compare


class LivePage:
    """The page of a run.

    Args:
        reported: what the report is about. Its folder need not exist yet.

    Attributes:
        builds: how often the page was made.
    """

    def __init__(self, reported: Reported) -> None:
        self.builds = 0
        self._reported = reported
        self._lock = threading.Lock()  # one request makes the page, the others wait for it
        self._state: State | None = None
        self._content = b""
        self._rests_until = 0.0
        self._finished: tuple[State, list[Section]] = ((), [])

    def content(self) -> bytes:
        """Return the page, UTF-8, made anew if files have changed."""
        with self._lock:
            state = (self._manifests(), self._logs())
            began = time.monotonic()
            if state != self._state and began >= self._rests_until:
                self._content = self._made().encode("utf-8", "backslashreplace")
                self._state = state
                self._rests_until = began + (1 + REST) * (time.monotonic() - began)
                self.builds += 1
            return self._content

    def _manifests(self) -> State:
        """Return the state of the finished stages."""
        runs = [one for one in (self._reported.run, self._reported.beside) if one is not None]
        return tuple(
            _state(path)
            for run in runs
            for depth in ("*", "*/*")
            for path in sorted(run.folder.glob(f"{depth}/{MANIFEST}"))
        )

    def _logs(self) -> State:
        """Return the state of the unfinished stages."""
        return tuple(
            (is_quiet(stage), *(_state(path) for path in _logs_of(stage)))
            for stage in self._reported.run.unfinished()
        )

    def _made(self) -> str:
        """Return the page, or one with a sentence if files cannot be read at the moment."""
        name, run = self._reported.name, self._reported.run
        try:
            sections = [*progress_sections(run), *self._of_finished()]
            location = location_of(run)
        except UNREADABLE as error:
            words = str(error) if isinstance(error, MasktasError | OSError) else f"{error!r}"
            sentence = f"The report cannot be made at the moment: {words}"
            return render(name, "", [Section("Not readable", [Text(shown(sentence))])], live=True)
        return render(name, location, sections or [_not_begun(run)], live=True)

    def _of_finished(self) -> list[Section]:
        """Return the sections about finished stages."""
        state = self._manifests()
        if state != self._finished[0]:
            some = bool(self._reported.run.stages())
            self._finished = state, finished_sections(self._reported) if some else []
        return self._finished[1]


def _not_begun(run: Run) -> Section:
    words = (
        f"No stage has begun in {shown(str(run.folder))} yet. The first numbers are shown here as "
        "soon as there are some."
    )
    return Section("Not begun", [Text(words)])


def _logs_of(stage: Stage) -> list[Path]:
    """Return the files that a stage writes while it works, besides weights."""
    return sorted(path for depth in ("", "*/") for path in stage.folder.glob(f"{depth}*.json*"))


def _state(path: Path) -> State:
    try:
        status = path.stat()
    except OSError:  # it has just been deleted
        return (str(path),)
    return str(path), status.st_mtime_ns, status.st_size
