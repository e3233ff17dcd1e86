"""Parquet files with a column of encoded images, for example in the Hugging Face layout."""

from __future__ import annotations

import difflib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from masktas.data.sources.base import (
    IMAGE_COLUMNS,
    Item,
    is_test_file,
    label_column,
    named_classes,
    reason,
    require_labels,
    require_size,
)
from masktas.data.sources.remote import Place
from masktas.errors import DataError, LabelError, require_extra
from masktas.formats import shown

ROWS_PER_SHARD = 1024
CACHE_BYTES = 2**28
ITEM_BYTES = 256  # of an item in the cache, beside its content


def _pyarrow() -> ModuleType:
    """Return pyarrow, imported on first use because most sources do not need it."""
    require_extra("pyarrow.parquet", "data", "Reading a parquet file")
    return require_extra("pyarrow", "data", "Reading a parquet file")


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns named by the user, None to detect them."""

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Groups:
    """A shard: consecutive row groups of one file; `first` is the first row."""

    file: int
    numbers: list[int]
    first: int
    rows: int


class Cursor:
    """A row group that is read on from the row read last, because it is too large for the cache.

    Args:
        key: of the row group.
        cells: its cells, from the first one on.

    Attributes:
        next: index of the row that is read next.
    """

    def __init__(self, key: tuple[int, int], cells: Iterator[Any]) -> None:
        self.key = key
        self.next = 0
        self._cells = cells

    def reaches(self, key: tuple[int, int], row: int) -> bool:
        """Return whether a row is still to come."""
        return self.key == key and self.next <= row

    def cell(self, row: int) -> Any:
        """Return the cell of a row that is still to come; those before it are not converted."""
        cell = None
        while self.next <= row:
            cell = None  # freed before the next one is read
            cell = next(self._cells)
            self.next += 1
        return cell


class ParquetSource:
    """Rows of parquet files: images as `{bytes, path}` or plain bytes, and labels on request.

    The rows of a file that is called test, or is in a folder called test, are test images. Shards
    are row groups, the smallest part of a file that can be read separately.

    Args:
        location: as the user wrote it.
        files: name and path of each file.
        place: of the files.
        columns: of images and labels.
    """

    def __init__(
        self,
        location: str,
        files: list[tuple[str, str]],
        place: Place,
        columns: Columns,
    ) -> None:
        self.location = location
        self._files = files
        self._place = place
        self._wanted = columns
        self._turn = threading.Lock()
        _pyarrow()  # a missing package is reported before a file is blamed
        # bytes and items of row groups
        self._cache: OrderedDict[tuple[int, int], tuple[int, list[Item]]] = OrderedDict()
        self._too_large: set[tuple[int, int]] = set()  # row groups that are not cached
        self._cursor: Cursor | None = None  # in the one of them that was read last
        self._cursor_turn = threading.Lock()
        self._metadata: list[Any] = []
        self._columns: list[str] = []
        self._shards: list[Groups] = []
        for number, (name, _) in enumerate(files):
            with self._open(number) as file:
                self._metadata.append(file.metadata)
                self._columns.append(_image_column(shown(name), file.schema_arrow, columns.image))
            self._shards += _groups(number, self._metadata[-1])
        if not self._shards:
            raise DataError(f"{location}: the parquet files hold no rows.")

    @contextmanager
    def _open(self, number: int) -> Iterator[Any]:
        name, path = self._files[number]
        known = self._metadata[number] if number < len(self._metadata) else None
        try:
            stream = self._place.open(path)
        except DataError as error:
            raise DataError(f"{shown(name)}: {error}.") from None
        with closing(stream):
            try:  # buffered, so that a column of a huge row group is read in pieces
                file = _pyarrow().parquet.ParquetFile(stream, metadata=known, buffer_size=2**20)
            except Exception as error:
                raise DataError(
                    f"{shown(name)}: not a parquet file that can be read ({reason(error)})."
                ) from None
            yield file

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self._shards)

    def sizes(self) -> list[int]:
        """Return the number of images of each shard."""
        return [shard.rows for shard in self._shards]

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images in order, without reading labels."""
        mine = self._shards[shard]
        with self._cursor_turn:
            self._cursor = None  # and what pyarrow holds for it
        yield from self._rows(mine.file, mine.numbers, mine.first)

    def _damaged(self, number: int, what: str) -> DataError:
        return DataError(f"{shown(self._files[number][0])}: damaged ({what}).")

    def _rows(self, number: int, groups: list[int], first: int) -> Iterator[Item]:
        """Yield the rows of some row groups, the first of which is row `first` of the file."""
        for row, cell in enumerate(self._cells(number, groups), start=first):
            item = self._item(number, row, cell)
            del cell  # freed before the next row is read
            yield item
            del item

    def _cells(self, number: int, groups: list[int]) -> Iterator[Any]:
        """Yield the cells of some row groups, as pyarrow's scalars.

        They are read one at a time, because pyarrow copies a value that is stored once, in a
        dictionary, for each row that refers to it. What the footer claims is not relied on.
        """
        claimed = sum(self._metadata[number].row_group(group).num_rows for group in groups)
        found = 0
        with self._open(number) as file:
            try:
                for batch in file.iter_batches(
                    1, row_groups=groups, columns=self._leaf(number), use_threads=False
                ):
                    found += 1
                    cells = [batch.column(0)[0]]
                    del batch  # nothing of a row is kept here once it is taken
                    yield cells.pop()
            except (OSError, ValueError, _pyarrow().ArrowException) as error:
                raise self._damaged(number, reason(error)) from None
        if found != claimed:
            raise self._damaged(number, f"{found} rows instead of {claimed}")

    def _leaf(self, number: int) -> list[str]:
        """Return the column to read: of a struct, only the bytes."""
        column = self._columns[number]
        kind = self._metadata[number].schema.to_arrow_schema().field(column).type
        return [f"{column}.bytes" if _pyarrow().types.is_struct(kind) else column]

    def _item(self, file: int, row: int, cell: Any) -> Item:
        archive = self._files[file][0]
        name, is_test = shown(f"{archive} row {row}"), is_test_file(archive)
        content = cell.as_py()
        if isinstance(content, dict):
            content = content["bytes"]
        if not content:
            return Item(name, None, is_test, "the row holds no image")
        try:
            require_size(len(content))
        except DataError as error:
            return Item(name, None, is_test, str(error))
        return Item(name, bytes(content), is_test)

    def read(self, shard: int, index: int) -> Item:
        """Return one row.

        The row groups read last are cached, up to `CACHE_BYTES`. A larger one is read from the row
        after the one read last, or from its first row again if the wanted one lies before that.
        """
        mine = self._shards[shard]
        row = range(mine.rows)[index]
        first = mine.first
        for group in mine.numbers:
            rows = self._metadata[mine.file].row_group(group).num_rows
            if row < first - mine.first + rows:
                return self._row(mine.file, group, first, row - (first - mine.first))
            first += rows
        raise IndexError(f"row {mine.first + row} of {self._files[mine.file][0]}")

    def _row(self, number: int, group: int, first: int, row: int) -> Item:
        """Return a row of a row group, whose first row is row `first` of the file."""
        key = number, group
        with self._turn:
            if key in self._cache:
                return self._cache[key][1][row]
        if key not in self._too_large:
            if rows := self._cached(key, first):
                return rows[row]
            self._too_large.add(key)
        with self._cursor_turn:
            cursor, self._cursor = self._cursor, None  # not kept if reading fails
            if cursor is None or not cursor.reaches(key, row):
                del cursor  # closes its file
                cursor = Cursor(key, self._cells(number, [group]))
            item = self._item(number, first + row, cursor.cell(row))
            self._cursor = cursor
        return item

    def _cached(self, key: tuple[int, int], first: int) -> list[Item]:
        """Read a row group, cache and return it; return an empty list if it is too large."""
        number, group = key
        rows: list[Item] = []
        num_bytes = 0
        for item in self._rows(number, [group], first):
            num_bytes += item.num_bytes + ITEM_BYTES
            if num_bytes > CACHE_BYTES // 2:
                return []
            rows.append(item)
        with self._turn:
            self._cache[key] = num_bytes, rows
            while sum(one for one, _ in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        return rows

    def labels(self, shard: int) -> list[Any]:
        """Read the label column; with class names if the metadata of the file has them."""
        mine = self._shards[shard]
        name = shown(self._files[mine.file][0])
        with self._open(mine.file) as file:
            schema = file.schema_arrow
            column = label_column(name, self._wanted.label, schema.names)
            try:
                found = file.read_row_groups(mine.numbers, columns=[column])[column].to_pylist()
            except (OSError, ValueError, _pyarrow().ArrowException) as error:
                raise LabelError(f"{name}: the labels cannot be read ({reason(error)}).") from None
        names = _class_names(schema, column)
        try:
            return named_classes(found, names) if names else require_labels(self.location, found)
        except LabelError as error:
            raise LabelError(f"{self.location}: {str(error).split(': ')[-1]}") from None

    def fingerprint(self) -> list[str]:
        """Return name, size, modification time and image column of each file."""
        return [
            f"{name} {self._place.state(path)} {column}"
            for (name, path), column in zip(self._files, self._columns, strict=True)
        ]


def _groups(number: int, metadata: Any) -> list[Groups]:
    """Join small row groups into shards of up to 1,024 rows; a larger one is one shard."""
    found: list[Groups] = []
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if rows and found and found[-1].rows + rows <= ROWS_PER_SHARD:
            last = found[-1]
            found[-1] = Groups(number, [*last.numbers, group], last.first, last.rows + rows)
        elif rows:
            found.append(Groups(number, [group], first, rows))
        first += rows
    return found


def _image_column(name: str, schema: Any, wanted: str | None) -> str:
    """Return the column of images.

    Raises:
        DataError: if there is none, or not the wanted one.
    """
    fitting: list[str] = [field.name for field in schema if _holds_images(field.type)]
    if wanted is not None:
        if wanted in fitting:
            return wanted
        near = difflib.get_close_matches(wanted, fitting, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise DataError(f"{name}: no column {wanted} that holds encoded images.{hint}")
    for column in IMAGE_COLUMNS:
        if column in fitting:
            return column
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{name}: several columns may be the images: {', '.join(fitting)}. "
            "Name one with image_column."
        )
    raise DataError(
        f"{name}: no column of images among {', '.join(map(shown, schema.names)) or 'none'}. The "
        "Hugging Face layout is expected: image (bytes, path), or image (encoded bytes), and, "
        "for fine-tuning, label."
    )


def _holds_images(kind: Any) -> bool:
    if _pyarrow().types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_images(kind.field(at).type)
    return bool(_pyarrow().types.is_binary(kind) or _pyarrow().types.is_large_binary(kind))


def _class_names(schema: Any, column: str) -> list[str] | None:
    """Return the class names in the metadata that `datasets` writes into a parquet file."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]
        names = info["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) and names else None
