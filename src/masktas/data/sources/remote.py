"""Where files lie: on this machine, or wherever fsspec reaches. Both are read in the same way."""

from __future__ import annotations

import difflib
import os
import stat
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO, Protocol

from masktas.data.sources.base import reason, require_size
from masktas.errors import DataError, require_extra


class Place(Protocol):
    """Files by path. Every method raises DataError with the bare reason."""

    def open(self, path: str) -> BinaryIO:
        """Open a file that can be read from any position."""
        ...

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        ...

    def cut(self, path: str, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on."""
        ...

    def state(self, path: str) -> str:
        """Return what changes when the file does."""
        ...


class LocalPlace:
    """Files of this machine: regular ones only, since a pipe would be waited for without end."""

    def open(self, path: str) -> BinaryIO:
        """Open a regular file."""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise DataError("not a regular file")
            return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            raise DataError(f"cannot be read ({reason(error)})") from None

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        with self.open(path) as file:
            size = os.fstat(file.fileno()).st_size
            require_size(size)
            try:
                return file.read(size)
            except OSError as error:
                raise DataError(f"cannot be read ({reason(error)})") from None

    def cut(self, path: str, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on."""
        require_size(size)
        with self.open(path) as file:
            try:
                file.seek(start)
                return file.read(size)
            except OSError as error:
                raise DataError(f"cannot be read ({reason(error)})") from None

    def state(self, path: str) -> str:
        """Return size and time of change."""
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return "gone"
        return f"{found.st_size} {found.st_mtime_ns}"


class RemotePlace:
    """Files of an fsspec file system."""

    def __init__(self, system: Any) -> None:
        from fsspec.archive import AbstractArchiveFileSystem

        self.system = system
        shared = isinstance(system, AbstractArchiveFileSystem)  # one open file for all threads
        self._turn: AbstractContextManager[Any] = threading.RLock() if shared else nullcontext()

    def open(self, path: str) -> BinaryIO:
        """Open a file."""
        try:
            file: BinaryIO = self.system.open(path, "rb")
        except Exception as error:  # file systems raise what their protocol's library raises
            raise DataError(f"cannot be read ({reason(error)})") from None
        return file

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        try:
            with self._turn:
                require_size(self.system.info(path).get("size") or 0)
                return bytes(self.system.cat_file(path))
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"cannot be read ({reason(error)})") from None

    def cut(self, path: str, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on."""
        require_size(size)
        try:
            with self._turn:
                return bytes(self.system.cat_file(path, start=start, end=start + size))
        except Exception as error:
            raise DataError(f"cannot be read ({reason(error)})") from None

    def state(self, path: str) -> str:
        """Return size, and whatever the file system knows of the version."""
        try:
            return described(self.system.info(path))
        except Exception:
            return "gone"


def described(info: dict[str, Any]) -> str:
    """Return what changes with a remote file, from what its file system lists of it."""
    keys = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created",
            "CRC", "blob_id", "xet_hash")  # fmt: skip
    return " ".join(str(info[key]) for key in keys if info.get(key) is not None)


def connect(location: str) -> tuple[RemotePlace, str]:
    """Open the file system of a location; return it and the path within.

    Raises:
        DataError: if nothing installed speaks the protocol, or the place cannot be reached.
    """
    fsspec = require_extra("fsspec", "data", "Reading images from an address")

    try:
        system, path = fsspec.core.url_to_fs(location)
    except ImportError as error:
        protocol = location.partition("://")[0]
        raise DataError(
            f"{location}: a package that speaks {protocol} is missing: {reason(error)}."
        ) from None
    except ValueError as error:
        protocol = location.partition("://")[0]
        near = difflib.get_close_matches(protocol, fsspec.available_protocols(), n=1)
        hint = f", did you mean {near[0]}://?" if near else "."
        raise DataError(f"{location}: {reason(error)}{hint}") from None
    except Exception as error:
        raise DataError(f"{location}: cannot be reached ({reason(error)}).") from None
    return RemotePlace(system), str(path)
