"""Places of files: the local file system, or any file system of fsspec."""

from __future__ import annotations

import difflib
import os
import re
import stat
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO, Protocol

from masktas.data.sources.base import reason, require_size
from masktas.errors import DataError, require_extra
from masktas.formats import shown

MAX_QUOTED = 200  # characters of a name in messages


class Place(Protocol):
    """Files by path. Every method but `state` raises DataError, without the path, if it fails."""

    def open(self, path: str) -> BinaryIO:
        """Open a seekable file."""
        ...

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        ...

    def cut(self, path: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start` on."""
        ...

    def state(self, path: str) -> str:
        """Return a string that changes with the file."""
        ...


class LocalPlace:
    """Local files; regular ones only, because reading a pipe could block forever."""

    def open(self, path: str) -> BinaryIO:
        """Open a regular file."""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise DataError("not a regular file")
            return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except (OSError, ValueError) as error:  # ValueError: null byte in the path
            raise DataError(f"cannot be read ({reason(error)})") from None

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        with self.open(path) as file:
            size = os.fstat(file.fileno()).st_size
            require_size(size)
            try:
                return file.read(size)
            except OSError as error:
                raise DataError(f"cannot be read ({reason(error)})") from None

    def cut(self, path: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start` on."""
        require_size(size)
        with self.open(path) as file:
            try:
                file.seek(start)
                return file.read(size)
            except OSError as error:
                raise DataError(f"cannot be read ({reason(error)})") from None

    def state(self, path: str) -> str:
        """Return size and modification time."""
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
        shared = isinstance(system, AbstractArchiveFileSystem)  # all threads share one open file
        self._turn: AbstractContextManager[Any] = threading.RLock() if shared else nullcontext()

    def open(self, path: str) -> BinaryIO:
        """Open a file."""
        try:
            file: BinaryIO = self.system.open(path, "rb")
        except Exception as error:  # depends on the library of the protocol
            raise DataError(f"cannot be read ({reason(error)})") from None
        return file

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        try:
            with self._turn:
                require_size(self.system.info(path).get("size") or 0)
                return bytes(self.system.cat_file(path))
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"cannot be read ({reason(error)})") from None

    def cut(self, path: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start` on."""
        require_size(size)
        try:
            with self._turn:
                return bytes(self.system.cat_file(path, start=start, end=start + size))
        except Exception as error:
            raise DataError(f"cannot be read ({reason(error)})") from None

    def state(self, path: str) -> str:
        """Return size and version, as far as the file system knows them."""
        try:
            return described(self.system.info(path))
        except Exception:
            return "gone"


def require_inside(name: str, *bases: str) -> str:
    """Return the path or address of a file that data names; only the data's own place is allowed.

    A list, a row of a table or a data set card may come from anyone: it must not choose which
    files of this machine are read, or which hosts are connected to.

    Args:
        name: path, relative to the first base or absolute; or address.
        bases: folders or addresses that it may be in.

    Raises:
        DataError: if it is somewhere else, as the end of a sentence about what names it.
    """
    remote = any("://" in base for base in bases)
    if "::" in name and (remote or "://" in name):
        raise DataError(f"names {_quoted(name)}, a chained address, which data may not use")
    local = name if remote else re.sub("^(file|local)://(?=/)", "", name)
    for base in bases:
        if "://" in local or "://" in base:
            inside = not local.startswith("/") and _host(local, base) == _host(base, base)
        else:
            inside = _is_below(local, base)
        if inside:
            alone = "://" in local or local.startswith("/")
            return local if alone else f"{base}/{local}"
    raise DataError(
        f"names {_quoted(name)}, but may only name files below its own place, {_quoted(bases[0])}"
    )


def _quoted(name: str) -> str:
    return shown(name if len(name) <= MAX_QUOTED else f"{name[:MAX_QUOTED]}...")


def _host(name: str, base: str) -> tuple[str, str]:
    """Return protocol and host of an address; those of `base` if it is relative to that."""
    protocol, _, rest = (name if "://" in name else base).partition("://")
    return protocol, re.split(r"[/?#\\]", rest, maxsplit=1)[0]


def _is_below(path: str, base: str) -> bool:
    """Return whether a path is in a folder, links aside, which folders may also contain."""
    whole = os.path.normpath(os.path.join(os.path.abspath(base), path))
    if whole.startswith(os.path.join(os.path.abspath(base), "")):
        return True
    return whole.startswith(os.path.join(os.path.realpath(base), ""))


def described(info: dict[str, Any]) -> str:
    """Return size and version of a remote file from its file system's listing."""
    keys = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created",
            "CRC", "blob_id", "xet_hash")  # fmt: skip
    return " ".join(str(info[key]) for key in keys if info.get(key) is not None)


def connect(location: str) -> tuple[RemotePlace, str]:
    """Open the file system of a location; return it and the path in it.

    Raises:
        DataError: if no package for the protocol is installed, or it cannot be reached.
    """
    fsspec = require_extra("fsspec", "data", "Reading images from an address")

    try:
        system, path = fsspec.core.url_to_fs(location)
    except ImportError as error:
        protocol = location.partition("://")[0]
        raise DataError(
            f"{location}: a package for {protocol} is missing: {reason(error)}."
        ) from None
    except ValueError as error:
        protocol = location.partition("://")[0]
        near = difflib.get_close_matches(protocol, fsspec.available_protocols(), n=1)
        hint = f", did you mean {near[0]}://?" if near else "."
        raise DataError(f"{location}: {reason(error)}{hint}") from None
    except Exception as error:
        raise DataError(f"{location}: cannot be reached ({reason(error)}).") from None
    return RemotePlace(system), str(path)
