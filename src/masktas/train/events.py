"""What is logged as TensorBoard reads it."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from masktas.errors import require_extra


def _module(name: str) -> ModuleType:
    return require_extra(name, "tensorboard", "Logging for TensorBoard")


LARGEST = 3.4028234e38  # of a 32-bit float


class Events:
    """A file of events, each written at once.

    torch's `SummaryWriter` leaves writing to a thread, and a full disk kills the thread: it prints
    pages, and what was to be written is lost without an error.

    Args:
        folder: that it lies in.
        purge_step: what earlier files say of this step and later ones does not count.
    """

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        self._event = _module("tensorboard.compat.proto.event_pb2").Event
        self._writer = _module("tensorboard.summary.writer.record_writer").RecordWriter
        self._parse = _module("google.protobuf.json_format").ParseDict
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / f"{name}.{time.monotonic_ns():020d}"
        self._append({"file_version": "brain.Event:2"})
        self._append({"step": purge_step, "session_log": {"status": "START"}})

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Append a number of a step, unless the file's 32-bit floats cannot hold it."""
        if not abs(value) <= LARGEST:
            return
        self._append({"step": step, "summary": {"value": [{"tag": name, "simple_value": value}]}})

    def _append(self, content: dict[str, Any]) -> None:
        record = io.BytesIO()
        event = self._parse({"wall_time": time.time(), **content}, self._event())
        self._writer(record).write(event.SerializeToString())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab", buffering=0) as file:
            file.write(record.getvalue())
