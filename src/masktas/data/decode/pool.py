"""Decoder processes, so that no image can crash, hang or exhaust the memory of a run."""

from __future__ import annotations

import fcntl
import itertools
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
from collections.abc import Collection, Iterable, Iterator, Sequence
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
PIPED_BYTES = 1 << 23  # larger images are sent alone, through a pipe, so that only one copy exists
PIPE_BYTES = 1 << 20  # size of this pipe
SHARED_BYTES = 1 << 24  # of the shared file that are kept for the next images, beside the results
IN_FLIGHT_BYTES = 3 << 26  # of encoded images read ahead; a single image may be larger


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
        decoded = [self._decoded(slot, answer, spec) for slot, answer in enumerate(answers)]
        self._shrink(len(items) * spec.num_bytes)
        return decoded

    def dimensions(self, items: Sequence[Item]) -> list[tuple[int, int] | None]:
        """Return (height, width) of images from their headers; None if not an image."""
        sizes = [answer.get("dimensions") for answer in self._ask(items, None)]
        self._shrink(0)
        return [None if size is None else (size[0], size[1]) for size in sizes]

    def _shrink(self, result_bytes: int) -> None:
        """Free what large images took of the shared file, which is kept for the next images."""
        if os.fstat(self._shared).st_size > result_bytes + SHARED_BYTES:
            os.ftruncate(self._shared, result_bytes + SHARED_BYTES)

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
                if _is_piped(items[todo[0]]):
                    self._write(process, requests[todo[0]])
                    self._write(process, _bytes(items[todo[0]]))
                    num_sent = 1
                else:
                    sent = list(itertools.takewhile(lambda slot: not _is_piped(items[slot]), todo))
                    self._write(process, b"".join(requests[slot] for slot in sent))
                    num_sent = len(sent)
                for _ in range(num_sent):
                    answers[todo[0]] = json.loads(self._line(process))
                    todo.popleft()
            except (OSError, _Ended) as ended:
                _stop(self._running)
                answers[todo.popleft()] = {"problem": f"decoding it {ended}"}
        return answers

    def _send(
        self, items: Sequence[Item], todo: Iterable[int], spec: DecodeSpec | None
    ) -> list[bytes]:
        """Write images to the shared file, except piped ones; return a line of JSON for each."""
        requests = [b""] * len(items)
        offset = len(items) * spec.num_bytes if spec else 0  # results come first
        for slot in todo:
            item, piped = items[slot], _is_piped(items[slot])
            request: dict[str, Any] = {"offset": None if piped else offset, "dtype": None}
            request |= {"spec": None, "bytes": item.num_bytes}
            if spec:
                request |= {"spec": asdict(spec), "out": slot * spec.num_bytes}
            if isinstance(item.content, np.ndarray):
                request |= {"dtype": item.content.dtype.str, "shape": item.content.shape}
            left = memoryview(b"" if piped else _bytes(item))
            while left:
                written = os.pwrite(self._shared, left, offset)
                left, offset = left[written:], offset + written
            requests[slot] = json.dumps(request).encode() + b"\n"
        return requests

    def _write(self, process: subprocess.Popen[bytes], content: bytes | memoryview) -> None:
        """Write to the standard input of the process.

        Raises:
            _Ended: if the process does not read it in time.
            OSError: if the process has ended.
        """
        assert process.stdin is not None
        left = memoryview(content)
        deadline = time.monotonic() + self.timeout
        while left:
            seconds = max(0, deadline - time.monotonic())
            if not select.select([], [process.stdin], [], seconds)[1]:
                _stop(self._running)
                raise _Ended(f"takes longer than {self.timeout:g} seconds")
            left = left[os.write(process.stdin.fileno(), left) :]

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
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)  # of this end of the pipe only
        with suppress(OSError, AttributeError):  # Linux only, and limited for each user
            fcntl.fcntl(process.stdin.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
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
        """Yield items in order, without their content, with their decoded images.

        A few items are read ahead, up to `IN_FLIGHT_BYTES`. A DataError of the iterable is raised
        after the items before it.
        """
        waiting: deque[tuple[int, Future[list[tuple[Item, Decoded]]]]] = deque()
        chunks, error, at_end = _chunks(items), None, False
        while True:
            while not at_end and self._has_room(waiting):
                try:
                    chunk = next(chunks, [])
                except DataError as raised:
                    chunk, error = [], raised
                at_end = not chunk
                if chunk:
                    num_bytes = sum(item.num_bytes for item in chunk)
                    waiting.append((num_bytes, self._threads.submit(self._decode, chunk, spec)))
                del chunk  # its content is freed once it is decoded
            if not waiting:
                break
            _, future = waiting.popleft()
            yield from future.result()
        if error is not None:
            raise error

    def _has_room(self, waiting: Collection[tuple[int, Future[Any]]]) -> bool:
        """Return whether another chunk may be read ahead."""
        in_flight = sum(num_bytes for num_bytes, future in waiting if not future.done())
        return len(waiting) < 3 * self.num and in_flight < IN_FLIGHT_BYTES

    def dimensions(self, items: Iterable[Item]) -> list[tuple[int, int] | None]:
        """Return (height, width) of images; None if not an image."""
        found: list[tuple[int, int] | None] = []
        chunks = _chunks(items)
        while chunk := next(chunks, []):
            found += self._all[0].dimensions(chunk)
            del chunk  # freed before more is read
        return found

    def _decode(self, items: Sequence[Item], spec: DecodeSpec) -> list[tuple[Item, Decoded]]:
        decoder = self._free.get()
        try:
            found = decoder.decode(items, spec)
        finally:
            self._free.put(decoder)
        return [(item.without_content(), one) for item, one in zip(items, found, strict=True)]


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
            gathered.append(next(iterator))  # not kept in a variable, so that it can be freed
        except StopIteration:
            break
        except DataError:
            if gathered:
                yield gathered
            raise
        num_bytes += gathered[-1].num_bytes
        if len(gathered) == CHUNK_IMAGES or num_bytes > CHUNK_BYTES:
            yield gathered
            gathered, num_bytes = [], 0
    if gathered:
        yield gathered


def _problem(item: Item) -> str | None:
    """Return why an item cannot be sent to a decoder, None if it can."""
    if item.content is None:
        return item.problem or "cannot be read"
    if item.num_bytes > MAX_BYTES:
        return f"{item.num_bytes / 1e9:.1f} GB are too many"
    if isinstance(item.content, np.ndarray) and item.content.dtype.kind not in "buif":
        return f"pixels of type {item.content.dtype}"
    return None


def _is_piped(item: Item) -> bool:
    return item.num_bytes > PIPED_BYTES


def _bytes(item: Item) -> bytes | memoryview:
    """Return the content, that of an array without a copy."""
    if isinstance(item.content, np.ndarray):
        return np.ascontiguousarray(item.content).reshape(-1).view(np.uint8).data
    assert item.content is not None
    return item.content


def _shared_file() -> int:
    """Return an anonymous file, shared with the decoder process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("masktas-decoder")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
