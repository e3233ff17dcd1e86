"""Decoding in processes of its own: no image can crash, hang or fill the memory of a run."""

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

SECONDS = 30.0  # that one image may take
MEMORY = 4 << 30  # bytes of address space of one decoder
MOST_BYTES = 1 << 30  # of one encoded image
AT_ONCE = 16  # images sent together: a round trip costs as much as decoding a small image


@dataclass(frozen=True, slots=True)
class Pixels:
    """What images are decoded to.

    Attributes:
        size: (height, width).
        in_channels: 1 grey, 3 colour, 4 with transparency, or any other number.
        white: the value that becomes 255; None for the most that the file's type can hold.
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
        """Of one image."""
        return self.size[0] * self.size[1] * self.in_channels


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image's bytes `[H, W, C]` and the digest of its content; or what the problem is."""

    pixels: NDArray[np.uint8] | None = None
    digest: str = ""
    problem: str = ""


class DecodeWorker:
    """One process that decodes, started when first needed and again when an image has killed it.

    Args:
        seconds: that one image may take.
        memory: bytes of address space it may have.
    """

    def __init__(self, *, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        self._running: list[subprocess.Popen[bytes]] = []  # one, or none
        self._window = _window()
        self._unread = b""
        # with the object, at the latest, its process and its files go
        self.close = weakref.finalize(self, _close, self._running, self._window)

    def decode(self, items: Sequence[Item], pixels: Pixels) -> list[Decoded]:
        """Decode images, one after the other; the ones that cannot be come back with a reason."""
        answers = self._ask(items, pixels)
        return [self._decoded(slot, answer, pixels) for slot, answer in enumerate(answers)]

    def dimensions(self, items: Sequence[Item]) -> list[tuple[int, int] | None]:
        """Return (height, width) of images, from their headers; None for what is no image."""
        sizes = [answer.get("dimensions") for answer in self._ask(items, None)]
        return [None if size is None else (size[0], size[1]) for size in sizes]

    def _ask(self, items: Sequence[Item], pixels: Pixels | None) -> list[dict[str, Any]]:
        """Return an answer for each item; the one at which the process dies gets a problem."""
        answers: list[dict[str, Any]] = [
            {} if problem is None else {"problem": problem} for problem in map(_problem, items)
        ]
        todo = deque(slot for slot, answer in enumerate(answers) if not answer)
        tasks = self._hand_over(items, todo, pixels)
        while todo:
            try:
                process = self._process()
                assert process.stdin is not None
                process.stdin.write(b"".join(tasks[slot] for slot in todo))
                process.stdin.flush()
                while todo:
                    answers[todo[0]] = json.loads(self._line(process))
                    todo.popleft()
            except (OSError, _Ended) as ended:
                _stop(self._running)
                answers[todo.popleft()] = {"problem": f"decoding it {ended}"}
        return answers

    def _hand_over(
        self, items: Sequence[Item], todo: Iterable[int], pixels: Pixels | None
    ) -> list[bytes]:
        """Put images into the window; return the line that asks for each."""
        tasks = [b""] * len(items)
        offset = len(items) * pixels.num_bytes if pixels else 0  # pixels come first
        for slot in todo:
            content = items[slot].content
            task: dict[str, Any] = {"offset": offset, "dtype": None, "pixels": None}
            if pixels:
                task |= {"pixels": asdict(pixels), "out": slot * pixels.num_bytes}
            if isinstance(content, np.ndarray):
                task |= {"dtype": content.dtype.str, "shape": content.shape}
                content = np.ascontiguousarray(content).tobytes()
            assert content is not None
            left = memoryview(content)
            while left:
                written = os.pwrite(self._window, left, offset)
                left, offset = left[written:], offset + written
            tasks[slot] = json.dumps(task | {"bytes": len(content)}).encode() + b"\n"
        return tasks

    def _decoded(self, slot: int, answer: dict[str, Any], wanted: Pixels) -> Decoded:
        if "problem" in answer:
            return Decoded(problem=answer["problem"])
        pixels = np.empty(wanted.shape, dtype=np.uint8)
        view, offset = pixels.data.cast("B"), slot * wanted.num_bytes
        while view:
            read = os.preadv(self._window, [view], offset)
            view, offset = view[read:], offset + read
        return Decoded(pixels, answer["digest"])

    def _process(self) -> subprocess.Popen[bytes]:
        if self._running:
            return self._running[0]
        settings = {"window": self._window, "seconds": self.seconds, "memory": self.memory}
        path = os.pathsep.join(filter(None, sys.path))
        self._unread = b""
        process = subprocess.Popen(
            [sys.executable, "-m", "masktas.data.decode.worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[self._window],
            env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )
        self._running.append(process)
        try:
            self._line(process)  # it is there
        except _Ended:
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            _stop(self._running)
            raise MasktasError(
                f"A process that decodes images cannot be started: {said[-1] if said else '?'}."
            ) from None
        return process

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        """Wait for an answer."""
        assert process.stdout is not None
        until = time.monotonic() + self.seconds
        while b"\n" not in self._unread:
            left = until - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                _stop(self._running)
                raise _Ended(f"takes longer than {self.seconds:g} seconds")
            more = os.read(process.stdout.fileno(), 1 << 16)
            if not more:
                raise _Ended(f"crashes (exit code {process.wait()})")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class DecodePool:
    """Several decoders at work side by side; use as a context manager, or close it.

    Args:
        num: how many; as many as there are cores for this process if None.
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

    def each(self, items: Iterable[Item], pixels: Pixels) -> Iterator[tuple[Item, Decoded]]:
        """Yield items in their order with what they were decoded to, reading a little ahead.

        An error of the iterable is raised after what came before it.
        """
        waiting: deque[tuple[list[Item], Future[list[Decoded]]]] = deque()
        several, error = _several(items), None
        while True:
            chunk: list[Item] = []
            if error is None:
                try:
                    chunk = next(several, [])
                except DataError as raised:
                    error = raised
            if chunk:
                waiting.append((chunk, self._threads.submit(self._decode, chunk, pixels)))
                if len(waiting) < 3 * self.num:
                    continue
            if not waiting:
                break
            done, future = waiting.popleft()
            yield from zip(done, future.result(), strict=True)
        if error is not None:
            raise error

    def dimensions(self, items: Sequence[Item]) -> list[tuple[int, int] | None]:
        """Return (height, width) of images; None for what is no image."""
        return self._all[0].dimensions(items)

    def _decode(self, items: Sequence[Item], pixels: Pixels) -> list[Decoded]:
        decoder = self._free.get()
        try:
            return decoder.decode(items, pixels)
        finally:
            self._free.put(decoder)


class _Ended(Exception):
    """A decoder process has ended, or has to."""


def _stop(running: list[subprocess.Popen[bytes]]) -> None:
    """Kill what is running."""
    while running:
        process = running.pop()
        process.kill()
        with suppress(OSError, ValueError):  # what was not written yet has nobody to read it
            process.communicate()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with suppress(OSError):
                stream.close()


def _close(running: list[subprocess.Popen[bytes]], window: int) -> None:
    _stop(running)
    os.close(window)


def _several(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield items in lists: what came before an error is not lost by it."""
    gathered: list[Item] = []
    weight = 0
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
        weight += 0 if item.content is None else _num_bytes(item.content)
        if len(gathered) == AT_ONCE or weight > 1 << 22:
            yield gathered
            gathered, weight = [], 0
    if gathered:
        yield gathered


def _problem(item: Item) -> str | None:
    """Return why an item needs no decoder."""
    if item.content is None:
        return item.problem or "cannot be read"
    if _num_bytes(item.content) > MOST_BYTES:
        return f"{_num_bytes(item.content) / 1e9:.1f} GB are too many"
    if isinstance(item.content, np.ndarray) and item.content.dtype.kind not in "buif":
        return f"pixels of type {item.content.dtype}"
    return None


def _num_bytes(content: bytes | NDArray[Any]) -> int:
    return content.nbytes if isinstance(content, np.ndarray) else len(content)


def _window() -> int:
    """Return a file that only this process and its decoders see."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("masktas-decoder")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
