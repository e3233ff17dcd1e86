"""Decode a source part by part: each shard to a file of pixels and a record of what is in it.

A part is claimed by locking its file, whoever works at it: several processes of a job, or several
runs, share the work; a killed one leaves the parts it had finished. The record is written last.
"""

from __future__ import annotations

import fcntl
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from masktas.artifacts import read_json, write_json
from masktas.data.decode.pool import Decoded, DecodePool, Pixels
from masktas.data.sources import Item, Source
from masktas.errors import DataError

PATIENCE = 0.1  # seconds between looks at what others do


@dataclass(frozen=True, slots=True)
class Part:
    """What one shard of a source was decoded to.

    Attributes:
        index: `[n]`, which images of the shard could be decoded.
        digests: `[n, 16]`, of their content.
        is_test: `[n]`, whether the source puts them into a test split.
        cached: how many of them, from the first, have their pixels in the part's file.
        tried: how many there were.
        skipped: name and reason of each that could not be decoded.
    """

    index: NDArray[np.int64]
    digests: NDArray[np.uint8]
    is_test: NDArray[np.bool_]
    cached: int
    tried: int
    skipped: list[dict[str, str]]

    def save(self, path: Path) -> None:
        """Write the record."""
        content = {
            "index": self.index.tolist(),
            "digests": self.digests.tobytes().hex(),
            "is_test": np.flatnonzero(self.is_test).tolist(),
            "cached": self.cached,
            "tried": self.tried,
            "skipped": self.skipped,
        }
        write_json(path, content)

    @staticmethod
    def load(path: Path) -> Part:
        """Read the record."""
        content = read_json(path)
        index = np.array(content["index"], dtype=np.int64)
        digests = np.frombuffer(bytes.fromhex(content["digests"]), dtype=np.uint8)
        is_test = np.zeros(len(index), dtype=bool)
        is_test[content["is_test"]] = True
        return Part(
            index,
            digests.reshape(len(index), 16),
            is_test,
            content["cached"],
            content["tried"],
            content["skipped"],
        )


class Parts:
    """The folder of a source's parts.

    Args:
        folder: holds them.
        num: how many there are, one for each shard.
    """

    def __init__(self, folder: Path, num: int) -> None:
        self.folder, self.num = folder, num

    def pixels(self, number: int) -> Path:
        """Return the file of a part's pixels, `[cached, H, W, C]` bytes."""
        return self.folder / f"{number:06d}.u8"

    def record(self, number: int) -> Path:
        """Return the file that says what is in a part; there is none before it is finished."""
        return self.folder / f"{number:06d}.json"

    def load(self, number: int) -> Part:
        """Return a finished part."""
        return Part.load(self.record(number))

    @contextmanager
    def claimed(self, number: int) -> Iterator[BinaryIO | None]:
        """Hold the part's file open and locked, or None if somebody else does."""
        with open(self.pixels(number), "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield file


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which images of a source are wanted.

    Attributes:
        chosen: of each shard which, `[n]`; None for all.
        most: of each shard at most so many, from its start; None for all.
        sizes: how many of each shard, where that is known.
    """

    chosen: list[NDArray[np.int64]] | None
    most: int | None
    sizes: list[int] | None

    @property
    def total(self) -> int | None:
        """How many in all, where that is known."""
        return None if self.sizes is None else sum(self.sizes)

    @staticmethod
    def of(source: Source, limit: int | None) -> Wanted:
        """Spread `limit` images evenly over a source; over its shards if sizes are not known."""
        sizes = source.sizes()
        if sizes is None:
            return Wanted(None, limit and math.ceil(limit / source.num_shards), None)
        total = sum(sizes)
        if limit is None or limit >= total:
            return Wanted(None, None, sizes)
        spread = np.linspace(0, total - 1, num=limit).round().astype(np.int64)
        ends = np.cumsum(sizes)
        parts = np.split(spread, np.searchsorted(spread, ends[:-1]))
        starts = (end - size for end, size in zip(ends, sizes, strict=True))
        chosen = [part - start for part, start in zip(parts, starts, strict=True)]
        return Wanted(chosen, None, [len(part) for part in chosen])

    def items(self, source: Source, number: int) -> Iterator[Item]:
        """Yield those of a shard, in order."""
        if self.chosen is None:
            return itertools.islice(source.stream(number), self.most)
        return (source.read(number, int(index)) for index in self.chosen[number])

    def index(self, number: int, position: int) -> int:
        """Return which image of the shard `items` yields at a position."""
        return position if self.chosen is None else int(self.chosen[number][position])


class Refused(DataError):
    """An image that cannot be decoded, where nothing may be skipped."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}. Without --strict it is skipped.")


@dataclass(frozen=True, slots=True)
class Building:
    """How the parts of a source are made.

    Attributes:
        source: of the images.
        wanted: which of them.
        pixels: what they are decoded to.
        parts: where they go.
        decoders: make pixels.
        room: how many images of a part, given its number, may be kept as pixels.
        strict: stop at the first image that cannot be decoded.
        advance: is told of so many images more, whoever has decoded them.
    """

    source: Source
    wanted: Wanted
    pixels: Pixels
    parts: Parts
    decoders: DecodePool
    room: Callable[[int], float]
    strict: bool
    advance: Callable[[int], None]

    def run(self) -> None:
        """Make the parts that are not there, or wait for who is at work at them."""
        todo = list(range(self.parts.num))
        while todo:
            left = [number for number in todo if not self._finish(number)]
            if left == todo:
                time.sleep(PATIENCE)
            todo = left

    def _finish(self, number: int) -> bool:
        """Make a part unless it is there; return False if somebody else is at it."""
        if not self.parts.record(number).exists():
            with self.parts.claimed(number) as file:
                if file is None:
                    return False
                if not self.parts.record(number).exists():
                    self._make(number, file)
                    return True
        self.advance(self.parts.load(number).tried)
        return True

    def _make(self, number: int, file: BinaryIO) -> None:
        file.truncate(0)  # what a killed process has left
        room = max(0, self.room(number))
        index: list[int] = []
        digests, is_test = bytearray(), []
        skipped: list[dict[str, str]] = []
        tried = 0
        for item, decoded in self._decoded(number, skipped):
            if decoded.pixels is None:
                self._skip(item.name, decoded.problem, skipped)
            else:
                if len(index) < room:
                    file.write(decoded.pixels.data)
                index.append(self.wanted.index(number, tried))
                digests += bytes.fromhex(decoded.digest)
                is_test.append(item.is_test)
            tried += 1
            self.advance(1)
        file.flush()
        Part(
            np.array(index, dtype=np.int64),
            np.frombuffer(bytes(digests), dtype=np.uint8).reshape(len(index), 16),
            np.array(is_test, dtype=bool),
            int(min(len(index), room)),
            tried,
            skipped,
        ).save(self.parts.record(number))

    def _decoded(
        self, number: int, skipped: list[dict[str, str]]
    ) -> Iterator[tuple[Item, Decoded]]:
        """Yield the images of a shard; one that ends early counts as far as it goes."""
        try:
            yield from self.decoders.each(self.wanted.items(self.source, number), self.pixels)
        except Refused:
            raise
        except DataError as error:
            self._skip(f"{self.source.location}, part {number}", str(error), skipped)

    def _skip(self, name: str, reason: str, skipped: list[dict[str, str]]) -> None:
        if self.strict:
            raise Refused(name, reason)
        skipped.append({"name": name, "reason": reason})
