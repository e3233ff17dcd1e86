"""Tar archives and WebDataset shards, read sequentially, without extracting to disk."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from masktas.data.sources.base import (
    IMAGE_SUFFIXES,
    MAX_BYTES,
    Item,
    folder_labels,
    in_archived_test_folder,
    is_test_file,
    reason,
    require_size,
)
from masktas.data.sources.remote import Place
from masktas.errors import DataError, LabelError, require_extra
from masktas.formats import shown

LABEL_SUFFIXES = (".cls", ".json")
LABEL_KEYS = ("label", "class", "cls")
MAX_LABEL_BYTES = 2**20
CHUNK_BYTES = 2**20
FREE_BYTES = 2**29  # of content, from which on compressed archives are checked for their expansion
MAX_EXPANSION = 250  # bytes of content for one byte of the file


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: name, offset and size of the content, and a problem, if any."""

    name: str
    start: int
    size: int
    problem: str


class TarSource:
    """Images in tar archives, plain or compressed (gzip, bzip2, xz, zstd, lz4), one shard each.

    The label of an image is, as in WebDataset, the content of the `.cls` file, or the `label`,
    `class` or `cls` of the `.json` file, with the same name up to the first dot; in an archive
    without such files, the folder of the image.

    Args:
        location: as the user wrote it.
        files: name and path of each archive.
        place: of the archives.
    """

    def __init__(self, location: str, files: list[tuple[str, str]], place: Place) -> None:
        self.location = location
        self._files = files
        self._place = place
        self._turn = threading.Lock()
        self._known: dict[int, list[Member] | None] = {}

    @property
    def num_shards(self) -> int:
        """Number of archives."""
        return len(self._files)

    def sizes(self) -> None:
        """Return None: a tar archive has no table of contents."""
        return

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images of an archive in order."""
        with self._named(shard):
            for member, reader in self._members(shard, IMAGE_SUFFIXES):
                yield self._item(
                    shard,
                    member,
                    None if member.problem else reader.take(member.start, member.size),
                )

    def read(self, shard: int, index: int) -> Item:
        """Read one image; in a compressed archive, everything before it is read too."""
        members = self._index(shard)
        if members is None:
            for item in itertools.islice(self.stream(shard), index, None):
                return item
            raise IndexError(f"image {index} of {self._files[shard][0]}")
        member = members[index]
        if member.problem:
            return self._item(shard, member, None)
        content = self._place.cut(self._files[shard][1], member.start, member.size)
        if len(content) < member.size:
            raise DataError(f"{self._files[shard][0]}: has changed since it was opened.")
        return self._item(shard, member, content)

    @contextmanager
    def _named(self, shard: int) -> Iterator[None]:
        """Turn any exception into a DataError that names the archive."""
        archive = shown(self._files[shard][0])
        try:
            yield
        except DataError as error:
            raise DataError(f"{archive}: {error}.") from None
        except Exception as error:  # of tarfile, gzip, lzma or a remote file
            raise DataError(
                f"{archive}: not a tar archive that can be read to its end ({reason(error)})."
            ) from None

    def _item(self, shard: int, member: Member, content: bytes | None) -> Item:
        archive = self._files[shard][0]
        is_test = is_test_file(archive) or in_archived_test_folder(member.name)
        return Item(shown(f"{archive}: {member.name}"), content, is_test, member.problem)

    def _index(self, shard: int) -> list[Member] | None:
        """Return the images of an archive, found on first use; None if it is compressed."""
        with self._turn:
            if shard not in self._known:
                found: list[Member] = []
                compressed = False
                try:
                    with self._named(shard):
                        for member, reader in self._members(shard, IMAGE_SUFFIXES):
                            compressed = reader.compressed
                            if compressed:
                                break
                            reader.reach(member)
                            found.append(member)
                except DataError:
                    if not found:
                        raise
                self._known[shard] = None if compressed else found
            return self._known[shard]

    def labels(self, shard: int) -> list[Any]:
        """Return the labels stored next to the images, or the folders of the images."""
        archive = self._files[shard][0]
        names: list[str] = []
        beside: dict[str, Any] = {}
        try:
            with self._named(shard):
                for member, reader in self._members(shard, IMAGE_SUFFIXES + LABEL_SUFFIXES):
                    if member.name.lower().endswith(IMAGE_SUFFIXES):
                        reader.reach(member)
                        names.append(member.name)
                    elif not member.problem and member.size <= MAX_LABEL_BYTES:
                        value = _label(member.name, reader.take(member.start, member.size))
                        if value is not None:
                            beside[_key(member.name)] = value
        except DataError:
            if not names:  # a truncated archive has labels for its readable images
                raise
        if not beside:
            return folder_labels(f"{self.location} ({archive})", names)
        for name in names:
            if _key(name) not in beside:
                raise LabelError(f"{archive}: {shown(name)} has no .cls or .json with its label.")
        return [beside[_key(name)] for name in names]

    def _members(self, shard: int, suffixes: tuple[str, ...]) -> Iterator[tuple[Member, Reader]]:
        """Yield the files with one of the suffixes, except hidden ones."""
        with (
            _reader(self._place, self._files[shard][1]) as reader,
            tarfile.TarFile(fileobj=reader) as tar,  # type: ignore[arg-type]
        ):
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # otherwise tarfile keeps all of them
                if _matches(info.name, suffixes):
                    yield Member(info.name, info.offset_data, info.size, _problem(info)), reader
                if reader.compressed and info.size > MAX_BYTES:
                    raise DataError(f"a member claims {info.size:,} bytes")
            if reader.last.strip(b"\0"):
                raise DataError("it ends early or is damaged")

    def fingerprint(self) -> list[str]:
        """Return name, size and modification time of each archive."""
        return [f"{name} {self._place.state(path)}" for name, path in self._files]


class Reader:
    """A forward-only stream, which refuses headers that point backwards or claim huge sizes.

    Args:
        file: the content of the archive.
        stored: the file of the archive, which is the same if it is not compressed.

    Attributes:
        compressed: whether skipping requires reading.
        last: the bytes read last.
    """

    def __init__(self, file: Any, stored: Any) -> None:
        self.compressed = file is not stored
        self.last = b""
        self._file, self._stored = file, stored
        self._position = 0

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        if not 0 <= size <= MAX_BYTES:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        self.last = b""  # freed before more is read
        content = io.BytesIO()  # grows without a second copy
        while size and (chunk := self._file.read(min(size, CHUNK_BYTES))):
            content.write(chunk)
            size -= len(chunk)
            self._position += len(chunk)
            self._check_expansion()
        self.last = content.getvalue()
        return self.last

    def _check_expansion(self) -> None:
        """Raise DataError if little compressed data becomes so much that it is no archive."""
        if not self.compressed or self._position <= FREE_BYTES:
            return
        if self._position > MAX_EXPANSION * self._stored.tell():
            raise DataError(f"expands to more than {MAX_EXPANSION} times its size")

    def seek(self, position: int) -> None:
        """Skip forward to a position."""
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        if not self.compressed:
            self._file.seek(position)
            self._position = position
        while self._position < position and self.read(min(position - self._position, CHUNK_BYTES)):
            pass

    def take(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on.

        Raises:
            DataError: if the archive ends earlier.
        """
        self.seek(start)
        content = self.read(size)
        if len(content) < size:
            raise DataError("it ends early")
        return content

    def reach(self, member: Member) -> None:
        """Raise DataError unless the archive contains all of a member."""
        if member.size and not member.problem:
            self.take(member.start + member.size - 1, 1)


@contextmanager
def _reader(place: Place, path: str) -> Iterator[Reader]:
    """Open an archive; the compression is detected by its first bytes."""
    with closing(place.open(path)) as file:
        magic = file.read(6)
        file.seek(0)
        opened: Any = file
        if magic.startswith(b"\x1f\x8b"):
            import gzip

            opened = gzip.GzipFile(fileobj=file)
        elif magic.startswith(b"BZh"):
            import bz2

            opened = bz2.BZ2File(file)
        elif magic.startswith(b"\xfd7zXZ\0"):
            import lzma

            opened = lzma.LZMAFile(file)  # noqa: SIM115 (the file is closed above)
        elif magic.startswith((b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")):
            # the standard library reads neither zstd nor lz4
            pyarrow = require_extra("pyarrow", "data", "Reading a zstd or lz4 archive")

            opened = pyarrow.CompressedInputStream(file, "zstd" if magic[0] == 0x28 else "lz4")
        yield Reader(opened, file)


def _matches(name: str, suffixes: tuple[str, ...]) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") and part != "." for part in parts)
    return not hidden and parts[-1].lower().endswith(suffixes)


def _problem(info: tarfile.TarInfo) -> str:
    if not info.isfile() or info.issparse():
        return "a link or another entry that is not a regular file"
    try:
        require_size(info.size)
    except DataError as error:
        return str(error)
    return ""


def _key(name: str) -> str:
    """Return the name up to the first dot, which is common to the files of a sample."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label(name: str, content: bytes) -> Any:
    """Return the label of a label file, None if it has none."""
    text = content.decode("utf-8-sig", errors="replace").strip()
    if name.lower().endswith(".cls"):
        return int(text) if text.isdecimal() else text or None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return next((found[key] for key in LABEL_KEYS if found.get(key) is not None), None)
