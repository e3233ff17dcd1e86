"""TOML and JSON files that a user gives: regular files of bounded size, with readable errors."""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from masktas.errors import MasktasError

MAX_BYTES = 16 * 2**20  # far more than any space, configuration, architecture or latency model
MAX_TOML_BYTES = 2**20  # tomllib reads about a megabyte a second


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """Read a regular file; a pipe or a device is refused without waiting for it.

    Raises:
        OSError: if it cannot be read, is not a regular file, or is larger than `limit` bytes.
    """
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = file.read(-1 if limit is None else limit + 1)
    if limit is not None and len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes")
    return content


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for a writer, as opening a pipe would."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_document(path: Path, error: type[MasktasError], kind: str) -> Any:
    """Read a file of kind `TOML` or `JSON`.

    Raises:
        MasktasError: of the type `error`, if it cannot be read or parsed.
    """
    try:
        limit = MAX_TOML_BYTES if kind == "TOML" else MAX_BYTES
        text = read_regular(Path(path), limit).decode("utf-8-sig")
        return tomllib.loads(text) if kind == "TOML" else json.loads(text)
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror}).") from None
    except RecursionError:
        raise error(f"{path}: not {kind} that can be read (nested too deeply).") from None
    except ValueError as reason:
        raise error(f"{path}: not {kind} ({reason}).") from None
