"""Main program of a process that fine-tunes networks: `python -m masktas.stages.side_worker`.

It reads one call from each line of standard input (`Finetuning`) and answers with lines of JSON.
When its input ends, so does it, after a checkpoint: whoever started it has asked for that, or is
gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from masktas import stopping
from masktas.console import Bar, Console
from masktas.errors import MasktasError, Stopped
from masktas.stages.side_by_side import Finetuning

SHARE_SECONDS = 0.5  # between messages about the progress

Send = Callable[[dict[str, Any]], None]


class SendingBar(Bar):
    """Progress that is sent as the share that is done."""

    def __init__(self, send: Send, total: int | None, start: int) -> None:
        self._send, self._total, self._sent = send, total, 0.0
        self.update(start)

    def __enter__(self) -> SendingBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, completed: int, text: str = "") -> None:
        """Send the share, unless one was sent just now."""
        if self._total and time.monotonic() - self._sent >= SHARE_SECONDS:
            self._sent = time.monotonic()
            self._send({"share": completed / self._total})


class SendingConsole(Console):
    """Sends what a stage says, instead of printing it."""

    def __init__(self, send: Send) -> None:
        super().__init__(quiet=True)
        self._send = send

    def say(self, text: str, *, once: bool = False) -> None:
        """Send a sentence."""
        self._send({"said": text})

    def warn(self, text: str, *, once: bool = False) -> None:
        """Send a warning."""
        self._send({"warning": text})

    @contextmanager
    def bar(self, label: str, total: int | None, start: int = 0) -> Iterator[Bar]:
        """Send progress."""
        yield SendingBar(self._send, total, start)


def main() -> None:
    """Make every call, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: whoever started this process ends it
    stopping.install()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # output of libraries must not mix with answers
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        lines.put(b"")
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)  # the training writes a checkpoint and stops

    def send(message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # nobody is there any more: the input ends, too
            answers.write(json.dumps(message).encode() + b"\n")

    busy = threading.Event()
    threading.Thread(target=listen, daemon=True).start()
    while line := lines.get():
        busy.set()
        send(answer(Finetuning.of_line(line), SendingConsole(send)))
        busy.clear()


def answer(call: Finetuning, console: Console) -> dict[str, Any]:
    """Make a call; return its manifest or its error."""
    try:
        manifest = call.make(None, console)
    except Stopped as error:
        return {"stopped": str(error), "exit_code": error.exit_code}
    except MasktasError as error:
        return {"error": str(error), "kind": type(error).__name__}
    return {"manifest": manifest}


if __name__ == "__main__":
    main()
