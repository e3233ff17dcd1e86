"""Main program of a process that fine-tunes networks, started by `pool.Worker`.

It reads one call from each line of standard input (`Finetuning`) and answers with lines of JSON.
When its input ends, so does it, after a checkpoint: its parent has asked for that, or is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from masktas import stopping
from masktas.console import Bar, Console
from masktas.stages.side_by_side.pool import Finetuning, message_of

SHARE_SECONDS = 0.5  # between messages about the progress
STOP = signal.SIGUSR1  # of the thread that reads the input, to the one that trains

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
        self._send({"warning": text, "once": once})

    @contextmanager
    def bar(self, label: str, total: int | None, start: int = 0) -> Iterator[Bar]:
        """Send progress."""
        yield SendingBar(self._send, total, start)


def main() -> None:
    """Make every call, until the input ends."""
    signal.signal(STOP, lambda *_: stopping.request())
    # not sys.stdin: the interpreter could not end while a thread reads from that
    calls = os.fdopen(os.dup(0), "rb")
    answers, lock = os.fdopen(os.dup(1), "wb"), threading.Lock()
    os.dup2(2, 1)  # output of libraries must not mix with answers
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    busy, over = threading.Event(), threading.Event()

    def listen() -> None:
        for line in calls:
            lines.put(line)
        over.set()  # before `busy` is read, and that is set before this is read: one sees the other
        lines.put(b"")
        if busy.is_set():
            os.kill(os.getpid(), STOP)

    def send(message: dict[str, Any]) -> None:
        with lock, suppress(BrokenPipeError):  # nobody is there any more: the input ends, too
            answers.write(json.dumps(message).encode() + b"\n")
            answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    while line := lines.get():
        busy.set()
        if over.is_set():
            return
        send(answer(Finetuning.of_line(line), SendingConsole(send)))
        busy.clear()


def answer(call: Finetuning, console: Console) -> dict[str, Any]:
    """Make a call; return its manifest or its error."""
    try:
        return {"manifest": call.make(None, console)}
    except Exception as error:  # the parent raises it
        return message_of(error)
