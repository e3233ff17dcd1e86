"""How files are written and read: whole or not at all, durable, and damaged ones are named.

A file is written beside its name, made durable and moved over it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from masktas.documents import read_regular
from masktas.errors import ArtifactError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then move it over `path`: never a torn file.

    Raises:
        ArtifactError: if it cannot be written (a full disk, no permission); what was at `path`
            is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        make_folder(path.parent)
        mode = _create(temporary)
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fchmod(file.fileno(), mode)  # a library may have replaced it by a private file
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be written ({error.strerror or error}). The previous content is "
            "unchanged; free disk space or choose another --out, then run the same command again."
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _create(path: Path) -> int:
    """Create an empty file where none was, never through a link; return the mode by the umask."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, durably: each name is stored in the folder above."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        with suppress(PermissionError):  # one may write into a folder that cannot be opened
            sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename durable: names are stored in the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_atomic(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write JSON that a person can read, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


class MissingKeyError(ArtifactError, KeyError):
    """A key that a file of a run folder does not hold."""

    __str__ = ArtifactError.__str__  # the sentence, without the quotes of a KeyError


class Record(dict[str, Any]):
    """An object of a JSON file of a run folder: a missing key is an error that names the file.

    Attributes:
        path: the file; None for a copy.
    """

    path: Path | None = None

    def __missing__(self, key: str) -> NoReturn:
        raise MissingKeyError(
            f"{self.path or 'a file of the run'}: damaged, {key!r} is missing. Run the stage that "
            "wrote it again with --overwrite."
        )


def _parse(text: str, path: Path) -> Any:
    """Parse JSON of a file; objects become `Record`s."""

    def record(pairs: list[tuple[str, Any]]) -> Record:
        made = Record(pairs)
        made.path = path
        return made

    return json.loads(text, object_pairs_hook=record)


def read_json(path: Path) -> Any:
    """Read JSON; objects are `Record`s.

    Raises:
        ArtifactError: if it is not there or damaged.
    """
    try:
        return _parse(read_regular(path).decode("utf-8-sig"), path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged, not JSON ({error}).") from None


def append_lines(path: Path, lines: list[str]) -> None:
    """Append lines in one write and make them durable; a torn last line is cut off first."""
    try:
        make_folder(path.parent)
        _cut_torn_line(path)
        with open(path, "a", encoding="utf-8", opener=not_through_links) as file:
            file.write("".join(line + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror}).") from None


def not_through_links(path: str, flags: int) -> int:
    """Open a file of a run folder that others may have made: a link in it is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; an incomplete last line (a kill while writing) is dropped."""
    if not path.exists():
        return []
    try:
        lines = read_regular(path).decode("utf-8").split("\n")[:-1]
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: damaged, not text ({error}).") from None
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = _parse(line, path)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise ArtifactError(f"{path}: line {number} is damaged.")
        entries.append(entry)
    return entries


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+", opener=not_through_links) as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; an ArtifactError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}). Run the stage that wrote it again "
            "with --overwrite."
        ) from None
