"""Checksums of what a store holds, and the folder that a damaged store is moved to."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.errors import DamagedError
from masktas.files import write_atomic


def save_array(path: Path, array: NDArray[Any]) -> int:
    """Write an .npy file, whole or not at all, and return the checksum of its bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    content = buffer.getvalue()

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, write)
    return zlib.crc32(content)


def load_array(path: Path, checksum: int) -> NDArray[Any]:
    """Read what `save_array` wrote.

    Raises:
        DamagedError: if its checksum is another.
        OSError: if it cannot be read.
    """
    content = path.read_bytes()
    if zlib.crc32(content) != checksum:
        raise DamagedError(f"{path}: damaged, its checksum is wrong.")
    array: NDArray[Any] = np.load(io.BytesIO(content))
    return array


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep other processes out of a folder that lock it too; yield its inode."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield os.fstat(lock).st_ino
    finally:
        os.close(lock)


def set_aside(folder: Path, inode: int) -> Path | None:
    """Rename a damaged store to NAME.damaged-N, where processes that read it keep their files.

    Args:
        folder: of the store.
        inode: of the folder when it was found damaged.

    Returns:
        The new name; None if another process has set it aside meanwhile.
    """
    with suppress(FileNotFoundError), locked(folder) as held:
        if held != inode or folder.stat().st_ino != inode:
            return None
        for number in itertools.count(1):
            to = folder.with_name(f"{folder.name}.damaged-{number}")
            if not to.exists():
                folder.rename(to)
                return to
    return None
