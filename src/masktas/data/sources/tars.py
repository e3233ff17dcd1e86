"""Tar archives and WebDataset shards, read front to back. Nothing is ever extracted to disk."""

from __future__ import annotations

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
    shown,
)
from masktas.data.sources.remote import Place
from masktas.errors import DataError, LabelError, require_extra

LABEL_SUFFIXES = (".cls", ".json")
LABEL_KEYS = ("label", "class", "cls")
MAX_LABEL_BYTES = 2**20
PIECE = 2**20


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its name, where its content begins, its size, what is wrong with it."""

    name: str
    start: int
    size: int
    problem: str


class TarSource:
    """Tar archives, one a shard; compressed ones too (gzip, bzip2, xz, zstd, lz4).

    An image's label is the content of the `.cls` file, or the `label`, `class` or `cls` of the
    `.json` file, that shares its name up to the first dot, as WebDataset has it; where an archive
    has no such files, the folder that the image lies in.

    Args:
        location: as the user wrote it.
        files: name and path of each archive.
        place: where they lie.
        spec: arguments that open it again.
    """

    def __init__(
        self, location: str, files: list[tuple[str, str]], place: Place, spec: dict[str, Any]
    ) -> None:
        self.location = location
        self._files = files
        self._place = place
        self._spec = spec
        self._turn = threading.Lock()
        self._known: dict[int, list[Member] | None] = {}

    @property
    def num_shards(self) -> int:
        """How many archives there are."""
        return len(self._files)

    def sizes(self) -> None:
        """Return None: an archive has no table of contents."""
        return

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images of an archive in its order."""
        with self._named(shard):
            for member, reader in self._members(shard, IMAGE_SUFFIXES):
                content = None
                if not member.problem:
                    content = reader.take(member.start, member.size)
                yield self._item(shard, member, content)

    def read(self, shard: int, index: int) -> Item:
        """Read one image; of a compressed archive, all before it are read too."""
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
            raise DataError(f"{self._files[shard][0]}: has changed while it was read.")
        return self._item(shard, member, content)

    @contextmanager
    def _named(self, shard: int) -> Iterator[None]:
        """Make whatever goes wrong in an archive a DataError that names it."""
        archive = shown(self._files[shard][0])
        try:
            yield
        except DataError as error:
            raise DataError(f"{archive}: {error}.") from None
        except Exception as error:  # tarfile, gzip, lzma, remote files: each raises its own
            raise DataError(
                f"{archive}: not a tar archive that can be read to its end ({reason(error)})."
            ) from None

    def _item(self, shard: int, member: Member, content: bytes | None) -> Item:
        archive = self._files[shard][0]
        is_test = is_test_file(archive) or in_archived_test_folder(member.name)
        return Item(shown(f"{archive}: {member.name}"), content, is_test, member.problem)

    def _index(self, shard: int) -> list[Member] | None:
        """Find the images of an archive once; None if it is compressed."""
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
        """Read the labels beside the images, or take the folders they lie in."""
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
            if not names:  # an archive that ends early has labels for what could be read
                raise
        if not beside:
            return folder_labels(f"{self.location} ({archive})", names)
        for name in names:
            if _key(name) not in beside:
                raise LabelError(f"{archive}: {shown(name)} has no .cls or .json with its label.")
        return [beside[_key(name)] for name in names]

    def _members(self, shard: int, suffixes: tuple[str, ...]) -> Iterator[tuple[Member, Reader]]:
        """Yield the files with one of the suffixes, hidden ones left out; then raise anything."""
        with (
            _reader(self._place, self._files[shard][1]) as reader,
            tarfile.TarFile(fileobj=reader) as tar,  # type: ignore[arg-type]
        ):
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
                if _is_wanted(info.name, suffixes):
                    yield Member(info.name, info.offset_data, info.size, _problem(info)), reader
                if reader.compressed and info.size > MAX_BYTES:
                    raise DataError(f"a member claims {info.size:,} bytes")
            if reader.last.strip(b"\0"):
                raise DataError("it ends early or is damaged")

    def fingerprint(self) -> list[str]:
        """Return each archive's name, size and time of change."""
        return [f"{name} {self._place.state(path)}" for name, path in self._files]

    def spec(self) -> dict[str, Any]:
        """Return what the user gave."""
        return self._spec


class Reader:
    """A stream that is read from its beginning to its end: a step back is refused.

    So an archive whose headers point backwards ends, and one whose headers claim more than fits
    into memory is not believed.

    Attributes:
        compressed: whether going forward means reading.
        last: what was read last.
    """

    def __init__(self, file: Any, *, compressed: bool) -> None:
        self.compressed = compressed
        self.last = b""
        self._file = file
        self._position = 0

    def tell(self) -> int:
        """Return how many bytes have been passed."""
        return self._position

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        if not 0 <= size <= MAX_BYTES:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        pieces = []
        while size and (piece := self._file.read(min(size, PIECE))):
            pieces.append(piece)
            size -= len(piece)
        self.last = b"".join(pieces)
        self._position += len(self.last)
        return self.last

    def seek(self, position: int) -> None:
        """Go forward."""
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        if not self.compressed:
            self._file.seek(position)
            self._position = position
        while self._position < position and self.read(min(position - self._position, PIECE)):
            pass

    def take(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on.

        Raises:
            DataError: if the archive ends before.
        """
        self.seek(start)
        content = self.read(size)
        if len(content) < size:
            raise DataError("it ends early")
        return content

    def reach(self, member: Member) -> None:
        """Raise DataError unless the archive holds all of a member, without reading it."""
        if member.size and not member.problem:
            self.take(member.start + member.size - 1, 1)


@contextmanager
def _reader(place: Place, path: str) -> Iterator[Reader]:
    """Open an archive, whatever it is compressed with, by its first bytes."""
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

            opened = lzma.LZMAFile(file)  # noqa: SIM115 (it closes nothing)
        elif magic.startswith((b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")):
            # the standard library reads neither zstd nor lz4 yet
            pyarrow = require_extra("pyarrow", "data", "Reading a zstd or lz4 archive")

            opened = pyarrow.CompressedInputStream(file, "zstd" if magic[0] == 0x28 else "lz4")
        yield Reader(opened, compressed=opened is not file)


def _is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") and part != "." for part in parts)
    return not hidden and parts[-1].lower().endswith(suffixes)


def _problem(info: tarfile.TarInfo) -> str:
    if not info.isfile() or info.issparse():
        return "a link or another thing that is not a plain file"
    try:
        require_size(info.size)
    except DataError as error:
        return str(error)
    return ""


def _key(name: str) -> str:
    """Return what the files of one sample share: the name up to the first dot."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label(name: str, content: bytes) -> Any:
    """Read a label file; None if it says nothing of a label."""
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
