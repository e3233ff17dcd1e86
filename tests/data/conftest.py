"""Images to test with: encoded ones, tables of them, and a source that lives in memory."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from masktas.data.sources import Item
from masktas.errors import LabelError


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Encode a Pillow image or an array of pixels."""

    def encode(image: Image.Image | np.ndarray, kind: str = "png", **options: Any) -> bytes:
        if not isinstance(image, Image.Image):
            image = Image.fromarray(image)
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def noise(encode) -> Callable[..., bytes]:
    """Encode an image of noise: another number, another image."""

    def noise(number: int, *, size: tuple[int, int] = (8, 8), kind: str = "png") -> bytes:
        rng = np.random.default_rng(number)
        return encode(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8), kind)

    return noise


@pytest.fixture(scope="session")
def numbered(encode) -> Callable[..., bytes]:
    """Encode an image of one colour that tells its number: red times 256 plus green."""

    def numbered(number: int, *, side: int = 8) -> bytes:
        color = (number // 256, number % 256, 0)
        return encode(Image.new("RGB", (side, side), color))

    return numbered


@pytest.fixture(scope="session")
def claiming() -> Callable[[int, int], bytes]:
    """Make a PNG of a few bytes whose header claims a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc32(name + body))

    def claiming(width: int, height: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        body = chunk(b"IDAT", compress(bytes(100))) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + header + body

    return claiming


@pytest.fixture(scope="session")
def write_table() -> Callable[..., Path]:
    """Write a parquet file in the Hugging Face layout."""

    def write_table(
        path: Path, images: list[bytes | None], labels: list[Any] | None = None
    ) -> Path:
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        rows = [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(images)]
        columns: dict[str, Any] = {"image": pyarrow.array(rows, type=kind)}
        if labels is not None:
            columns["label"] = pyarrow.array(labels)
        parquet.write_table(pyarrow.table(columns), path)
        return path

    return write_table


class MemorySource:
    """Encoded images in a list; None cannot be read, an exception is raised.

    Attributes:
        reads: the positions that were read, in the order they were.
    """

    location = "photos"

    def __init__(
        self,
        contents: list[Any],
        *,
        labels: list[int] | None = None,
        test: set[int] = frozenset(),  # type: ignore[assignment]
        version: str = "1",
        shard: int = 256,
        counted: bool = True,
    ) -> None:
        self.contents = contents
        self.reads: list[int] = []
        self._labels, self._test, self._version = labels, test, version
        self._shard, self._counted = shard, counted

    @property
    def num_shards(self) -> int:
        return -(-len(self.contents) // self._shard)

    def sizes(self) -> list[int] | None:
        total, shard = len(self.contents), self._shard
        sizes = [min(shard, total - start) for start in range(0, total, shard)]
        return sizes if self._counted else None

    def stream(self, shard: int) -> Iterator[Item]:
        for index in range(len(self.contents[shard * self._shard :][: self._shard])):
            yield self.read(shard, index)

    def read(self, shard: int, index: int) -> Item:
        position = shard * self._shard + index
        self.reads.append(position)
        content = self.contents[position]
        if isinstance(content, BaseException):
            raise content
        problem = "gone" if content is None else ""
        return Item(f"memory/{position}", content, position in self._test, problem)

    def fingerprint(self) -> list[str]:
        return [f"{self._version} {len(self.contents)} {self._shard}"]

    def labels(self, shard: int) -> list[int]:
        if self._labels is None:
            raise LabelError("memory: no labels")
        return self._labels[shard * self._shard :][: self._shard]


@pytest.fixture(scope="session")
def memory_source() -> type[MemorySource]:
    """The class itself: tests make their own."""
    return MemorySource


@pytest.fixture(scope="session")
def damage_column() -> Callable[[Path, str], None]:
    """Overwrite the stored pages of one column of a parquet file, and nothing else."""

    def damage_column(path: Path, name: str) -> None:
        metadata = parquet.read_metadata(path)
        content = bytearray(path.read_bytes())
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                if column.path_in_schema == name:
                    starts = (column.dictionary_page_offset, column.data_page_offset)
                    start = min(offset for offset in starts if offset)
                    end = start + column.total_compressed_size
                    content[start:end] = b"\xff" * (end - start)
        path.write_bytes(content)

    return damage_column
