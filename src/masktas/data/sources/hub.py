"""Data sets of the Hugging Face `datasets` library, on its hub or in a local folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from masktas.data.sources.base import (
    IMAGE_COLUMNS,
    TEST_NAMES,
    IndexedSource,
    Item,
    label_column,
    named_classes,
    reason,
    require_labels,
    require_size,
)
from masktas.data.sources.cards import require_own_files
from masktas.data.sources.remote import LocalPlace, require_inside
from masktas.data.sources.tables import Columns
from masktas.errors import DataError, LabelError, require_extra
from masktas.formats import shown

ROWS_PER_SHARD = 1024
ROWS_AT_ONCE = 16


def is_saved(folder: str) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    have = [
        os.path.isfile(os.path.join(folder, name)) for name in ("dataset_info.json", "state.json")
    ]
    return all(have) or os.path.isfile(os.path.join(folder, "dataset_dict.json"))


def has_card(folder: str) -> bool:
    """Return whether the README.md of a folder is a data set card that defines splits."""
    try:
        content = LocalPlace().cut(os.path.join(folder, "README.md"), 0, 2**16)
    except DataError:
        return False
    head, _, _ = content.decode("utf-8", errors="replace").partition("\n---")
    return head.startswith("---") and "\nconfigs:" in head


class HubSource(IndexedSource):
    """A Hugging Face data set; `datasets` downloads and memory-maps it, and no code in it is run.

    Splits follow each other; those whose names begin with test are test images.

    Args:
        location: as the user wrote it: `hf:owner/name`, `hf:owner/name:config` or a local folder.
        columns: of images and labels.
    """

    def __init__(self, location: str, columns: Columns) -> None:
        self._parts: list[tuple[str, Any, str]] = []
        self._labels: list[Any] = []
        self._fingerprint: list[str] = []
        datasets = require_extra("datasets", "data", "Reading a Hugging Face data set")

        self._bases = _own_places(location)
        self._label = columns.label
        for name, rows in _load(location).items():
            column = _image_column(location, rows, columns.image)
            self._fingerprint.append(f"{name} {len(rows)} {rows._fingerprint} {column}")
            only = rows.select_columns([column])
            if isinstance(rows.features[column], datasets.Image):
                only = only.cast_column(column, datasets.Image(decode=False))
            self._parts.append((name, only.with_format("arrow"), column))
            self._labels.append(rows)
        super().__init__(location, [len(rows) for rows in self._labels], ROWS_PER_SHARD)
        if not self._shards:
            raise DataError(f"{location}: the data set holds no rows.")

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images in order, without reading labels."""
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
        return self._item(part, row, next(self._cells(part, slice(row, row + 1))))

    def _cells(self, part: int, rows: slice) -> Iterator[Any]:
        """Yield the cells of some rows, which are copied from the file one at a time."""
        split, images, column = self._parts[part]
        try:
            for cell in images[rows][column]:
                yield cell.as_py()
        except Exception as error:  # of pyarrow or the file system
            raise DataError(f"{self.location}: {split} cannot be read ({reason(error)}).") from None

    def _item(self, part: int, row: int, cell: Any) -> Item:
        split = self._parts[part][0]
        name, is_test = shown(f"{split} row {row}"), split.lower().startswith(TEST_NAMES)
        try:
            return Item(name, _content(cell, self._bases), is_test)
        except DataError as error:
            return Item(name, None, is_test, str(error))

    def labels(self, shard: int) -> list[Any]:
        """Read the label column; with class names if the data set has them."""
        part, rows = self._shards[shard]
        whole = self._labels[part]
        column = label_column(self.location, self._label, list(whole.features))
        # as arrow, which decodes nothing: a column of files would be opened otherwise
        table = whole.select_columns([column]).with_format("arrow")[rows.start : rows.stop]
        found = table[column].to_pylist()
        names = getattr(whole.features[column], "names", None)
        if not names:
            return require_labels(self.location, found)
        try:
            return named_classes(found, names)
        except LabelError as error:
            raise LabelError(f"{self.location}, {self._parts[part][0]}: {error}") from None

    def fingerprint(self) -> list[str]:
        """Return the fingerprint by `datasets` of each split."""
        return self._fingerprint


def _load(location: str) -> dict[str, Any]:
    """Return the splits of a data set by name."""
    datasets = require_extra("datasets", "data", "Reading a Hugging Face data set")

    try:
        require_own_files(location)
    except DataError as error:
        raise DataError(f"{location}: its card {error}.") from None
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


def _own_places(location: str) -> list[str]:
    """Return where the files of rows may be: in the data set's folder, or downloaded with it."""
    datasets = require_extra("datasets", "data", "Reading a Hugging Face data set")
    constants = require_extra("huggingface_hub.constants", "data", "Reading such a data set")

    caches = [str(datasets.config.HF_DATASETS_CACHE), str(constants.HF_HUB_CACHE)]
    return [location, *caches] if os.path.isdir(location) else caches


def _content(cell: Any, bases: list[str]) -> bytes:
    """Return an encoded image: the bytes in the cell, or of the file that it names in `bases`."""
    path = None
    if isinstance(cell, dict):
        path, cell = cell.get("path"), cell.get("bytes")
    if cell:
        require_size(len(cell))
        return bytes(cell)
    if not path:
        raise DataError("the row holds no image")
    try:
        path = require_inside(path, *bases)
    except DataError as error:
        raise DataError(f"the row {error}") from None
    return LocalPlace().read(path)
