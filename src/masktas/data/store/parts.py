"""Parts of a store: for each shard of the source, a file of pixels and a record of its images.

Processes that build the same store share the work by locking the pixel files. The record of a part
is written last, so the finished parts of a killed process are kept.
"""

from __future__ import annotations

import fcntl
import os
import resource
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from masktas.errors import ArtifactError
from masktas.files import not_through_links, read_json, write_json

MANY_FILES = 65_536  # that are enough: parts hold 512 images and more
MAX_LISTED = 100  # skipped images in the record of a part
SYNC_BYTES = 32 << 20  # of pixels, after which a sync begins in the background
POLL_SECONDS = 0.1  # between checks of the parts that other processes have locked


@dataclass(slots=True)
class Skipped:
    """Images that could not be decoded: all are counted, the first ones are listed.

    Attributes:
        listed: name and reason of each of the first `MAX_LISTED`.
        num: number of all.
    """

    listed: list[dict[str, str]] = field(default_factory=list)
    num: int = 0

    def add(self, name: str, reason: str) -> None:
        """Count an image, and list it if it is one of the first."""
        self.num += 1
        if self.num <= MAX_LISTED:
            self.listed.append({"name": name, "reason": reason})


@dataclass(frozen=True, slots=True)
class Part:
    """Record of the decoded images of one shard.

    Attributes:
        index: `[n]`, indices in the shard of the images that could be decoded.
        digests: `[n, 16]`, digests of their content.
        is_test: `[n]`, whether the source declares them as test images.
        cached: number of images, from the first, whose pixels are in the part's file.
        tried: number of images that were read, decodable or not.
        skipped: name and reason of the first images that could not be decoded.
        num_skipped: number of all images that could not be decoded; written if not all are listed.
        checksums: of the pixels of each cached image.
    """

    index: NDArray[np.int64]
    digests: NDArray[np.uint8]
    is_test: NDArray[np.bool_]
    cached: int
    tried: int
    skipped: list[dict[str, str]]
    num_skipped: int
    checksums: list[int]

    def save(self, path: Path) -> None:
        """Write the record."""
        content = {
            "index": self.index.tolist(),
            "digests": self.digests.tobytes().hex(),
            "is_test": np.flatnonzero(self.is_test).tolist(),
            "cached": self.cached,
            "tried": self.tried,
            "skipped": self.skipped,
            "checksums": self.checksums,
        }
        if self.num_skipped > len(self.skipped):
            content["num_skipped"] = self.num_skipped
        write_json(path, content)

    @staticmethod
    def load(path: Path) -> Part:
        """Read the record.

        Raises:
            ArtifactError: if it is damaged.
        """
        content = read_json(path)
        try:
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
                content.get("num_skipped", len(content["skipped"])),
                content["checksums"],
            )
        except (KeyError, IndexError, TypeError, ValueError):
            raise ArtifactError(
                f"{path}: damaged. Delete {path.parents[1]}: the images are decoded again."
            ) from None


class PixelFile:
    """The locked file of a part's pixels, which is emptied first.

    What is written is synced in the background, so that decoding does not wait for the disk at the
    end of each part.

    Args:
        file: opened for appending.

    Attributes:
        checksums: of the pixels of each image, in order.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.truncate(0)  # pixels of a killed process
        self._file = file
        self._background = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: Future[None] | None = None
        self._unsynced = 0
        self.checksums: list[int] = []

    def __enter__(self) -> PixelFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._background.shutdown()  # before the file is closed

    def append(self, pixels: NDArray[np.uint8]) -> None:
        """Write the pixels of one image."""
        self._file.write(pixels.data)
        self.checksums.append(zlib.crc32(pixels.data))
        self._unsynced += pixels.nbytes
        if self._unsynced >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._unsynced = 0
            self._wait()
            self._file.flush()
            self._syncing = self._background.submit(os.fsync, self._file.fileno())

    def sync(self) -> None:
        """Make the pixels durable, before the record that says that they are there."""
        self._wait()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _wait(self) -> None:
        """Wait for the sync in the background; raise its error, which is reported only once."""
        if self._syncing is not None:
            self._syncing.result()


class OpenParts:
    """The pixel files of a finished store, which stay readable when its folder is renamed.

    Args:
        folder: of the parts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, os.close, self._folder)

    def num_bytes(self, number: int) -> int:
        """Return the size of a part's pixels."""
        return os.stat(_pixels(number), dir_fd=self._folder).st_size

    def open(self, number: int) -> BinaryIO:
        """Open a part's pixels, `[cached, H, W, C]` bytes."""
        return open(os.open(_pixels(number), os.O_RDONLY, dir_fd=self._folder), "rb")


def _pixels(number: int) -> str:
    return f"{number:06d}.u8"


class Parts:
    """Folder of the parts of a store.

    Args:
        folder: the folder.
        num: number of parts, one for each shard.
    """

    def __init__(self, folder: Path, num: int) -> None:
        self.folder, self.num = folder, num

    def pixels(self, number: int) -> Path:
        """Return the path of a part's pixels, `[cached, H, W, C]` bytes."""
        return self.folder / _pixels(number)

    def record(self, number: int) -> Path:
        """Return the path of a part's record, which exists once the part is finished."""
        return self.folder / f"{number:06d}.json"

    def load(self, number: int) -> Part:
        """Return the record of a finished part."""
        return Part.load(self.record(number))

    def complete(
        self, make: Callable[[int, PixelFile], Part], advance: Callable[[int], None]
    ) -> None:
        """Make all missing parts, and wait for those that other processes are making.

        Args:
            make: decodes a part, given its number and its locked pixel file.
            advance: called with the number of images of each part that was already finished.
        """
        todo = list(range(self.num))
        while todo:
            missing = [number for number in todo if not self._finish(number, make, advance)]
            if missing == todo:
                time.sleep(POLL_SECONDS)
            todo = missing

    def _finish(
        self, number: int, make: Callable[[int, PixelFile], Part], advance: Callable[[int], None]
    ) -> bool:
        """Make a part unless it is finished; return False if another process is making it."""
        if not self.record(number).exists():
            with self._locked(number) as file:
                if file is None:
                    return False
                if not self.record(number).exists():
                    with PixelFile(file) as pixels:
                        part = make(number, pixels)
                        pixels.sync()
                    part.save(self.record(number))
                    return True
        advance(self.load(number).tried)
        return True

    @contextmanager
    def _locked(self, number: int) -> Iterator[BinaryIO | None]:
        """Open and lock the pixel file of a part; yield None if another process has locked it."""
        with open(self.pixels(number), "ab", opener=not_through_links) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield file


def most_open_files() -> int:
    """Return how many files this process may have open; raise its own limit where it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return MANY_FILES if soft == resource.RLIM_INFINITY else soft
