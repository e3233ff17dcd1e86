"""Decoder processes, so that no image can crash, hang or exhaust the memory of a run."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas import launch
from masktas.data.sources import Item
from masktas.errors import DataError, MasktasError

TIMEOUT = 30.0  # seconds for one image
MEMORY = 4 << 30  # bytes of address space of one decoder
MAX_BYTES = 1 << 30  # of one encoded image
CHUNK_IMAGES = 16  # images sent together: a round trip costs as much as decoding a small image
CHUNK_BYTES = 1 << 22  # of encoded images sent together


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """Size and channels of decoded images.

    Attributes:
        size: (height, width).
        in_channels: 1 for gray, 3 for RGB, 4 for RGBA, or any other number.
        white: value that becomes 255; None for the maximum of the data type of the file.
    """

    size: tuple[int, int]
    in_channels: int
    white: float | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """`[H, W, C]`."""
        return (*self.size, self.in_channels)

    @property
    def num_bytes(self) -> int:
        """Bytes of one decoded image."""
        return self.size[0] * self.size[1] * self.in_channels


@dataclass(frozen=True, slots=True)
class Decoded:
    """Result for one image: pixels `[H, W, C]` and a digest of the content, or a problem."""

    pixels: NDArray[np.uint8] | None = None
    digest: str = ""
    problem: str = ""


class DecodeWorker:
    """A decoder process, started on first use and restarted after an image has killed it.

    Args:
        timeout: seconds for one image.
        memory: maximum bytes of its address space.
    """

    def __init__(self, *, timeout: float = TIMEOUT, memory: int = MEMORY) -> None:
        self.timeout, self.memory = timeout, memory
        self._running: list[subprocess.Popen[bytes]] = []  # at most one
        self._shared = _shared_file()
        self._unread = b""
        # called at the latest when this object is garbage-collected
        self.close = weakref.finalize(self, _close, self._running, self._shared)

    def decode(self, items: Sequence[Item], spec: DecodeSpec) -> list[Decoded]:
        """Decode images; the result of one that cannot be decoded has a problem."""
        answers = self._ask(items, spec)
        return [self._decoded(slot, answer, spec) for slot, answer in enumerate(answers)]

    def dimensions(self, items: Sequence[Item]) -> list[tuple[int, int] | None]:
        """Return (height, width) of images from their headers; None if not an image."""
        sizes = [answer.get("dimensions") for answer in self._ask(items, None)]
        return [None if size is None else (size[0], size[1]) for size in sizes]

    def _ask(self, items: Sequence[Item], spec: DecodeSpec | None) -> list[dict[str, Any]]:
        """Return an answer for each item; an item that kills the process gets a problem."""
        answers: list[dict[str, Any]] = [
            {} if problem is None else {"problem": problem} for problem in map(_problem, items)
        ]
        todo = deque(slot for slot, answer in enumerate(answers) if not answer)
        requests = self._send(items, todo, spec)
        while todo:
            try:
                process = self._process()
                assert process.stdin is not None
                process.stdin.write(b"".join(requests[slot] for slot in todo))
                process.stdin.flush()
                while todo:
                    answers[todo[0]] = json.loads(self._line(process))
                    todo.popleft()
            except (OSError, _Ended) as ended:
                _stop(self._running)
                answers[todo.popleft()] = {"problem": f"decoding it {ended}"}
        return answers

    def _send(
        self, items: Sequence[Item], todo: Iterable[int], spec: DecodeSpec | None
    ) -> list[bytes]:
        """Write images to the shared file; return the request for each, one line of JSON."""
        requests = [b""] * len(items)
        offset = len(items) * spec.num_bytes if spec else 0  # results come first
        for slot in todo:
            content = items[slot].content
            request: dict[str, Any] = {"offset": offset, "dtype": None, "spec": None}
            if spec:
                request |= {"spec": asdict(spec), "out": slot * spec.num_bytes}
            if isinstance(content, np.ndarray):
                request |= {"dtype": content.dtype.str, "shape": content.shape}
                content = np.ascontiguousarray(content).tobytes()
            assert content is not None
            left = memoryview(content)
            while left:
                written = os.pwrite(self._shared, left, offset)
                left, offset = left[written:], offset + written
            requests[slot] = json.dumps(request | {"bytes": len(content)}).encode() + b"\n"
        return requests

    def _decoded(self, slot: int, answer: dict[str, Any], spec: DecodeSpec) -> Decoded:
        if "problem" in answer:
            return Decoded(problem=answer["problem"])
        pixels = np.empty(spec.shape, dtype=np.uint8)
        view, offset = pixels.data.cast("B"), slot * spec.num_bytes
        while view:
            read = os.preadv(self._shared, [view], offset)
            view, offset = view[read:], offset + read
        return Decoded(pixels, answer["digest"])

    def _process(self) -> subprocess.Popen[bytes]:
        if self._running:
            return self._running[0]
        settings = {"shared": self._shared, "timeout": self.timeout, "memory": self.memory}
        path = os.pathsep.join(filter(None, sys.path))
        self._unread = b""
        process = subprocess.Popen(
            [sys.executable, "-m", "masktas.data.decode.worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self._shared],
            env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )
        self._running.append(process)
        try:
            self._line(process)  # its greeting
        except _Ended:
            assert process.stderr is not None
            lines = process.stderr.read().decode(errors="replace").strip().splitlines()
            _stop(self._running)
            raise MasktasError(
                f"A decoder process cannot be started: {lines[-1] if lines else 'no message'}."
            ) from None
        return process

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        """Wait for a line of the process.

        Raises:
            _Ended: if the process ends or takes too long.
        """
        assert process.stdout is not None
        deadline = time.monotonic() + self.timeout
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                _stop(self._running)
                raise _Ended(f"takes longer than {self.timeout:g} seconds")
            more = os.read(process.stdout.fileno(), 1 << 16)
            if not more:
                raise _Ended(f"crashes (exit code {process.wait()})")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class DecodePool:
    """Decoder processes that work in parallel; use as a context manager, or call `close`.

    Args:
        num: number of processes; None: one per core available to this process.
    """

    def __init__(self, num: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) // launch.local_world_size()
        self.num = num or max(1, cores)
        self._all = [DecodeWorker() for _ in range(self.num)]
        self._free: queue.LifoQueue[DecodeWorker] = queue.LifoQueue()
        for decoder in reversed(self._all):
            self._free.put(decoder)
        self._threads = ThreadPoolExecutor(self.num, thread_name_prefix="decode")

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._all:
            decoder.close()

    def each(self, items: Iterable[Item], spec: DecodeSpec) -> Iterator[tuple[Item, Decoded]]:
        """Yield items in order with their decoded images, reading a few items ahead.

        A DataError of the iterable is raised after the items before it.
        """
        waiting: deque[tuple[list[Item], Future[list[Decoded]]]] = deque()
        chunks, error = _chunks(items), None
        while True:
            chunk: list[Item] = []
            if error is None:
                try:
                    chunk = next(chunks, [])
                except DataError as raised:
                    error = raised
            if chunk:
                waiting.append((chunk, self._threads.submit(self._decode, chunk, spec)))
                if len(waiting) < 3 * self.num:
                    continue
            if not waiting:
                break
            done, future = waiting.popleft()
            yield from zip(done, future.result(), strict=True)
        if error is not None:
            raise error

    def dimensions(self, items: Sequence[Item]) -> list[tuple[int, int] | None]:
        """Return (height, width) of images; None if not an image."""
        return self._all[0].dimensions(items)

    def _decode(self, items: Sequence[Item], spec: DecodeSpec) -> list[Decoded]:
        decoder = self._free.get()
        try:
            return decoder.decode(items, spec)
        finally:
            self._free.put(decoder)


class _Ended(Exception):
    """A decoder process has ended or was killed."""


def _stop(running: list[subprocess.Popen[bytes]]) -> None:
    """Kill the process, if there is one."""
    while running:
        process = running.pop()
        process.kill()
        with suppress(OSError, ValueError):  # unwritten input is discarded
            process.communicate()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with suppress(OSError):
                stream.close()


def _close(running: list[subprocess.Popen[bytes]], shared: int) -> None:
    _stop(running)
    os.close(shared)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield items in lists; the items before an error are yielded before it is raised."""
    gathered: list[Item] = []
    num_bytes = 0
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            break
        except DataError:
            if gathered:
                yield gathered
            raise
        gathered.append(item)
        num_bytes += 0 if item.content is None else _num_bytes(item.content)
        if len(gathered) == CHUNK_IMAGES or num_bytes > CHUNK_BYTES:
            yield gathered
            gathered, num_bytes = [], 0
    if gathered:
        yield gathered


def _problem(item: Item) -> str | None:
    """Return why an item cannot be sent to a decoder, None if it can."""
    if item.content is None:
        return item.problem or "cannot be read"
    if _num_bytes(item.content) > MAX_BYTES:
        return f"{_num_bytes(item.content) / 1e9:.1f} GB are too many"
    if isinstance(item.content, np.ndarray) and item.content.dtype.kind not in "buif":
        return f"pixels of type {item.content.dtype}"
    return None


def _num_bytes(content: bytes | NDArray[Any]) -> int:
    return content.nbytes if isinstance(content, np.ndarray) else len(content)


def _shared_file() -> int:
    """Return an anonymous file, shared with the decoder process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("masktas-decoder")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
