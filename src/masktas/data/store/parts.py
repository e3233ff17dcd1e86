"""Parts of a store: for each shard of the source, a file of pixels and a record of its images.

Processes that build the same store share the work by locking the pixel files. The record of a part
is written last, so the finished parts of a killed process are kept.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from masktas.artifacts import not_through_links, read_json, write_json

POLL_SECONDS = 0.1  # between checks of the parts that other processes have locked


@dataclass(frozen=True, slots=True)
class Part:
    """Record of the decoded images of one shard.

    Attributes:
        index: `[n]`, indices in the shard of the images that could be decoded.
        digests: `[n, 16]`, digests of their content.
        is_test: `[n]`, whether the source declares them as test images.
        cached: number of images, from the first, whose pixels are in the part's file.
        tried: number of images that were read, decodable or not.
        skipped: name and reason of each image that could not be decoded.
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
    """Folder of the parts of a store.

    Args:
        folder: the folder.
        num: number of parts, one for each shard.
    """

    def __init__(self, folder: Path, num: int) -> None:
        self.folder, self.num = folder, num

    def pixels(self, number: int) -> Path:
        """Return the path of a part's pixels, `[cached, H, W, C]` bytes."""
        return self.folder / f"{number:06d}.u8"

    def record(self, number: int) -> Path:
        """Return the path of a part's record, which exists once the part is finished."""
        return self.folder / f"{number:06d}.json"

    def load(self, number: int) -> Part:
        """Return the record of a finished part."""
        return Part.load(self.record(number))

    def complete(
        self, make: Callable[[int, BinaryIO], Part], advance: Callable[[int], None]
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
        self, number: int, make: Callable[[int, BinaryIO], Part], advance: Callable[[int], None]
    ) -> bool:
        """Make a part unless it is finished; return False if another process is making it."""
        if not self.record(number).exists():
            with self._locked(number) as file:
                if file is None:
                    return False
                if not self.record(number).exists():
                    make(number, file).save(self.record(number))
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
