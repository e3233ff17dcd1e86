"""Zip archives, read without extracting to disk."""

from __future__ import annotations

import bz2
import copy
import io
import threading
import zipfile
import zlib
from collections import OrderedDict
from typing import Any

from masktas.data.sources.base import (
    IMAGE_SUFFIXES,
    IndexedSource,
    Item,
    folder_labels,
    in_archived_test_folder,
    is_test_file,
    reason,
    require_size,
)
from masktas.data.sources.remote import Place
from masktas.errors import DataError
from masktas.formats import shown

MEMBERS_PER_SHARD = 512
MAX_OPEN = 32
PIECE_BYTES = 2**20  # of a large member, read at a time
ENCRYPTED = 0x1


class ZipSource(IndexedSource):
    """Images in zip archives; the folder of an image in the archive is its class.

    Args:
        location: as the user wrote it.
        files: name and path of each archive.
        place: of the archives.
    """

    def __init__(self, location: str, files: list[tuple[str, str]], place: Place) -> None:
        self._files = files
        self._place = place
        self._turn = threading.Lock()  # an open archive is not thread-safe
        self._archives: OrderedDict[int, zipfile.ZipFile] = OrderedDict()
        self._members = [
            [one for one in self._archive(number).infolist() if _is_image(one)]
            for number in range(len(files))
        ]
        super().__init__(location, map(len, self._members), MEMBERS_PER_SHARD)
        if not self._shards:
            raise DataError(
                f"{location}: no images in it. Looked in all folders of the archive for files "
                f"ending in {', '.join(IMAGE_SUFFIXES)}."
            )

    def _archive(self, number: int) -> zipfile.ZipFile:
        """Return an open archive; up to `MAX_OPEN` archives stay open."""
        if number not in self._archives:
            name, path = self._files[number]
            try:
                file = self._place.open(path)
            except DataError as error:
                raise DataError(f"{shown(name)}: {error}.") from None
            try:
                opened = zipfile.ZipFile(file)
            except Exception as error:  # such as struct.error, OSError
                file.close()
                raise DataError(
                    f"{shown(name)}: not a zip archive that can be read ({reason(error)})."
                ) from None
            self._archives[number] = opened
            if len(self._archives) > MAX_OPEN:
                _, oldest = self._archives.popitem(last=False)
                _close(oldest)
        self._archives.move_to_end(number)
        return self._archives[number]

    def read(self, shard: int, index: int) -> Item:
        """Read one member; zipfile verifies its checksum and size."""
        number, run = self._shards[shard]
        member, archive = self._members[number][run[index]], self._files[number][0]
        name = shown(f"{archive}: {member.filename}")
        is_test = is_test_file(archive) or in_archived_test_folder(member.filename)
        try:
            require_size(member.file_size)
            if member.flag_bits & ENCRYPTED:
                raise DataError("encrypted")
            with self._turn:
                return Item(name, _content(self._archive(number), member), is_test)
        except DataError as error:
            return Item(name, None, is_test, str(error))
        except Exception as error:  # BadZipFile, zlib.error, NotImplementedError, EOFError ...
            return Item(name, None, is_test, f"damaged ({reason(error)})")

    def labels(self, shard: int) -> list[Any]:
        """Return the folder of each image as its class."""
        number, run = self._shards[shard]
        members = self._members[number][run.start : run.stop]
        return folder_labels(self.location, [member.filename for member in members])

    def fingerprint(self) -> list[str]:
        """Return name, size and modification time of each archive."""
        return [f"{name} {self._place.state(path)}" for name, path in self._files]

    def __del__(self) -> None:
        for archive in getattr(self, "_archives", {}).values():
            _close(archive)


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return a member; a large one is read in pieces, because zipfile joins copies of all of it."""
    if member.compress_type == zipfile.ZIP_BZIP2:
        return _bzip2_content(archive, member)
    if member.file_size <= PIECE_BYTES:
        return archive.read(member)
    content = io.BytesIO()
    with archive.open(member) as file:
        while piece := file.read(PIECE_BYTES):
            content.write(piece)
    return content.getvalue()


def _bzip2_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return a member without unpacking more than it claims, which zipfile would.

    4 KB of bzip2, the piece that zipfile unpacks at once, can become gigabytes.
    """
    stored = copy.copy(member)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, member.compress_size
    del stored.CRC  # of the content, not of what is stored
    content, unpacker = io.BytesIO(), bz2.BZ2Decompressor()
    with archive.open(stored) as file:
        while not unpacker.eof and content.tell() <= member.file_size:
            packed = file.read(PIECE_BYTES) if unpacker.needs_input else b""
            if unpacker.needs_input and not packed:
                break
            content.write(unpacker.decompress(packed, PIECE_BYTES))
    if content.tell() != member.file_size or zlib.crc32(content.getbuffer()) != member.CRC:
        raise zipfile.BadZipFile("its checksum or size is wrong")
    return content.getvalue()


def _close(archive: zipfile.ZipFile) -> None:
    file = archive.fp
    archive.close()
    if file is not None:  # zipfile does not close a file that was passed open
        file.close()


def _is_image(member: zipfile.ZipInfo) -> bool:
    parts = member.filename.split("/")
    hidden = any(part.startswith(".") and part != "." for part in parts)
    return not hidden and parts[-1].lower().endswith(IMAGE_SUFFIXES)
