"""Data sets of the Hugging Face library, by name on its hub or in a local folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from masktas.data.sources.base import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    TEST_NAMES,
    Item,
    Ranges,
    named_classes,
    reason,
    require_labels,
    require_size,
    shown,
)
from masktas.data.sources.remote import LocalPlace, connect
from masktas.data.sources.tables import Columns
from masktas.errors import DataError, LabelError, require_extra

ROWS_PER_SHARD = 1024
ROWS_AT_ONCE = 16


def is_saved(folder: str) -> bool:
    """Say whether `save_to_disk` wrote a folder."""
    have = [
        os.path.isfile(os.path.join(folder, name)) for name in ("dataset_info.json", "state.json")
    ]
    return all(have) or os.path.isfile(os.path.join(folder, "dataset_dict.json"))


def has_card(folder: str) -> bool:
    """Say whether a folder's README.md is a data set card that says which files are which split."""
    try:
        content = LocalPlace().cut(os.path.join(folder, "README.md"), 0, 2**16)
    except DataError:
        return False
    head, _, _ = content.decode("utf-8", errors="replace").partition("\n---")
    return head.startswith("---") and "\nconfigs:" in head


class HubSource:
    """A Hugging Face data set. The library downloads, caches and memory-maps it; no code is run.

    Splits follow each other; one whose name begins with test is the data set's own test split.

    Args:
        location: as the user wrote it: `hf:owner/name`, `hf:owner/name:config` or a local folder.
        columns: which columns are meant.
        spec: arguments that open it again.
    """

    def __init__(self, location: str, columns: Columns, spec: dict[str, Any]) -> None:
        self.location = location
        self._spec = spec
        self._parts: list[tuple[str, Any, str]] = []
        self._labels: list[Any] = []
        self._prints: list[str] = []
        self._shards: list[tuple[int, range]] = []
        datasets = require_extra("datasets", "data", "Reading a Hugging Face data set")

        self._label = columns.label
        for name, rows in _load(location).items():
            column = _image_column(location, rows, columns.image)
            self._prints.append(f"{name} {len(rows)} {rows._fingerprint} {column}")
            only = rows.select_columns([column])
            if isinstance(rows.features[column], datasets.Image):
                only = only.cast_column(column, datasets.Image(decode=False))
            ranges = Ranges(len(rows), ROWS_PER_SHARD)
            self._shards += [(len(self._parts), ranges[n]) for n in range(len(ranges))]
            self._parts.append((name, only, column))
            self._labels.append(rows)
        if not self._shards:
            raise DataError(f"{location}: the data set holds no rows.")

    @property
    def num_shards(self) -> int:
        """How many times 1,024 rows there are."""
        return len(self._shards)

    def sizes(self) -> list[int]:
        """Return the images of each shard."""
        return [len(rows) for _, rows in self._shards]

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the rows in order; labels are not touched."""
        part, rows = self._shards[shard]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            for row, cell in zip(
                some, self._cells(part, slice(some.start, some.stop)), strict=True
            ):
                yield self._item(part, row, cell)

    def read(self, shard: int, index: int) -> Item:
        """Return one row."""
        part, rows = self._shards[shard]
        row = rows[index]
        return self._item(part, row, self._cells(part, slice(row, row + 1))[0])

    def _cells(self, part: int, rows: slice) -> list[Any]:
        split, images, column = self._parts[part]
        try:
            return list(images[rows][column])
        except Exception as error:  # of pyarrow, or of the file system below
            raise DataError(f"{self.location}: {split} cannot be read ({reason(error)}).") from None

    def _item(self, part: int, row: int, cell: Any) -> Item:
        split = self._parts[part][0]
        name, is_test = shown(f"{split} row {row}"), split.lower().startswith(TEST_NAMES)
        try:
            return Item(name, _content(cell), is_test)
        except DataError as error:
            return Item(name, None, is_test, str(error))

    def labels(self, shard: int) -> list[Any]:
        """Read the label column; classes by name, where the data set names them."""
        part, rows = self._shards[shard]
        whole = self._labels[part]
        column = self._label or next((one for one in LABEL_COLUMNS if one in whole.features), None)
        if column is None or column not in whole.features:
            raise LabelError(
                f"{self.location}: no column {column or 'label'}, which fine-tuning needs. "
                f"There are: {', '.join(whole.features)}."
            )
        found = list(whole.select_columns([column])[rows.start : rows.stop][column])
        names = getattr(whole.features[column], "names", None)
        if not names:
            return require_labels(self.location, found)
        try:
            return named_classes(found, names)
        except LabelError as error:
            raise LabelError(f"{self.location}, {self._parts[part][0]}: {error}") from None

    def fingerprint(self) -> list[str]:
        """Return the library's own fingerprint of each split."""
        return self._prints

    def spec(self) -> dict[str, Any]:
        """Return what the user gave."""
        return self._spec


def _load(location: str) -> dict[str, Any]:
    """Return the data set's splits by name."""
    datasets = require_extra("datasets", "data", "Reading a Hugging Face data set")

    try:
        if os.path.isdir(location):
            found = (
                datasets.load_from_disk(location)
                if is_saved(location)
                else datasets.load_dataset(os.path.abspath(location))
            )
        else:
            name, _, config = location.removeprefix("hf:").partition(":")
            found = datasets.load_dataset(name, config or None)
    except ConnectionError as error:
        raise DataError(
            f"{location}: the hub cannot be reached and the data set is not in the cache of the "
            f"`datasets` library ({reason(error)})."
        ) from None
    except Exception as error:
        raise DataError(f"{location}: cannot be opened ({reason(error)}).") from None
    return dict(found) if isinstance(found, dict) else {str(found.split or "all"): found}


def _image_column(location: str, rows: Any, wanted: str | None) -> str:
    datasets = require_extra("datasets", "data", "Reading a Hugging Face data set")

    kinds: dict[str, Any] = rows.features
    images = [name for name in kinds if isinstance(kinds[name], datasets.Image)]
    encoded = [
        name for name in kinds if getattr(kinds[name], "dtype", "") in ("binary", "large_binary")
    ]
    if wanted is not None:
        if wanted in images + encoded:
            return wanted
        raise DataError(f"{location}: no column {wanted} of images. There are: {', '.join(kinds)}.")
    for name in (*IMAGE_COLUMNS, *images):
        if name in images or name in encoded:
            return name
    raise DataError(f"{location}: no column of images among {', '.join(kinds)}.")


def _content(cell: Any) -> bytes:
    """Return an encoded image: the cell's own bytes, or the file that it names."""
    path = None
    if isinstance(cell, dict):
        path, cell = cell.get("path"), cell.get("bytes")
    if cell:
        require_size(len(cell))
        return bytes(cell)
    if not path:
        raise DataError("the row holds no image")
    if "://" in path:
        place, inner = connect(path)
        return place.read(inner)
    return LocalPlace().read(path)
