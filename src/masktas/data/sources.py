"""Where images come from: encoded bytes by position, names for messages, labels only on request."""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow
import pyarrow.parquet as parquet

from masktas.errors import DataError, LabelError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
RUN_FILES = {"settings.json", "store.json"}
TEST_NAMES = ("test",)
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", *TEST_NAMES)


class Source(Protocol):
    """A sequence of encoded images. Nothing but `labels` ever reads a label."""

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def read(self, index: int) -> bytes:
        """Return the encoded image; a DataError if it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """Name the image in messages."""
        ...

    def is_test(self, index: int) -> bool:
        """Say whether the source itself puts the image into a test split."""
        ...

    def fingerprint(self) -> list[str]:
        """Return what changes when the source's content does, cheap to make."""
        ...

    def labels(self) -> tuple[list[int], list[str]]:
        """Return each image's class index, and the classes' names.

        Raises:
            LabelError: if the source has no labels, saying what would give it some.
        """
        ...


def open_source(location: str | Path) -> Source:
    """Open a folder of image files, or a parquet file or folder in the Hugging Face layout.

    Raises:
        DataError: if there is nothing there, or no image in it.
    """
    path = Path(location)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder. Give a folder of images.")
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise DataError(f"{path}: give the folder that holds the images, or a .parquet file.")
        return ParquetSource([path])
    tables = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() == ".parquet" and not file.name.startswith(".")
    )
    if tables:
        return ParquetSource(tables)
    files = sorted(_image_files(path))
    if not files:
        raise DataError(
            f"{path}: no images in it. Looked in all folders below for files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}, and in it for .parquet files."
        )
    return FolderSource(path, files)


def _image_files(root: Path) -> Iterator[Path]:
    """Walk a folder, following links, each real folder once; hidden ones are passed by."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if RUN_FILES.intersection(names):  # a run folder among the images: its pictures are ours
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield Path(folder) / name


class FolderSource:
    """Image files of a folder, flat or nested. The folder an image lies in is its class."""

    def __init__(self, root: Path, files: list[Path]) -> None:
        self.root = root
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        try:
            return self.files[index].read_bytes()
        except OSError as error:
            raise DataError(f"{self.files[index]}: cannot be read ({error.strerror}).") from None

    def name(self, index: int) -> str:
        """Return the path below the root."""
        return str(self.files[index].relative_to(self.root))

    def is_test(self, index: int) -> bool:
        """Say whether the image lies below a folder called `test`."""
        return self.files[index].relative_to(self.root).parts[0].lower() in TEST_NAMES

    def fingerprint(self) -> list[str]:
        """Return each file's path, size and time of change."""
        return [f"{path.relative_to(self.root)} {_state(path)}" for path in self.files]

    def labels(self) -> tuple[list[int], list[str]]:
        """Take the last folder above each image as its class."""
        parents = [path.relative_to(self.root).parent for path in self.files]
        names = [folder.name for folder in parents]
        if any(not name or name.lower() in SPLIT_NAMES for name in names):
            raise LabelError(
                f"{self.root}: the images have no labels. Put each class into a folder of its own "
                "(photos/cat/1.jpg, photos/dog/2.jpg), or give a .parquet file with a label column."
            )
        return _index(names)


class ParquetSource:
    """Rows of parquet files in the Hugging Face layout: `image: {bytes, path}` and `label`.

    A file whose name starts with `test` is the source's own test split.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        for path in paths:
            try:
                schema = parquet.read_schema(path)
            except (OSError, pyarrow.ArrowException) as error:
                raise DataError(f"{path}: not a parquet file that can be read ({error}).") from None
            kind: Any = schema.field("image").type if "image" in schema.names else pyarrow.null()
            if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise DataError(
                    f"{path}: no column image.bytes. The Hugging Face layout is expected: "
                    "image (bytes, path) and, for fine-tuning, label."
                )
        counts = [parquet.read_metadata(path).num_rows for path in paths]
        self._ends: list[int] = list(itertools.accumulate(counts))
        if not self._ends[-1]:
            raise DataError(f"{paths[0].parent}: the parquet files hold no rows.")

        self._images: dict[int, Any] = {}
        self._lock = threading.Lock()

    def _column(self, file: int) -> Any:
        """Read the images of a file, and no other column: labels are not touched.

        Only the last two files are kept: all of them may be more than memory holds.
        """
        with self._lock:
            if file not in self._images:
                if len(self._images) == 2:
                    del self._images[next(iter(self._images))]
                path = self.paths[file]
                try:
                    table = parquet.ParquetFile(path, memory_map=True).read(columns=["image"])
                except (OSError, pyarrow.ArrowException) as error:
                    raise DataError(f"{path}: damaged ({error}).") from None
                self._images[file] = table["image"]
            return self._images[file]

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, index: int) -> tuple[int, int]:
        file = bisect.bisect_right(self._ends, index)
        return file, index - (self._ends[file - 1] if file else 0)

    def read(self, index: int) -> bytes:
        """Return the row's image bytes."""
        file, row = self._locate(index)
        content = self._column(file)[row].as_py()
        if not content or not content["bytes"]:
            raise DataError(f"{self.name(index)}: the row holds no image.")
        return bytes(content["bytes"])

    def name(self, index: int) -> str:
        """Return file and row."""
        file, row = self._locate(index)
        return f"{self.paths[file].name} row {row}"

    def is_test(self, index: int) -> bool:
        """Say whether the row's file is called test."""
        return self.paths[self._locate(index)[0]].name.lower().startswith(TEST_NAMES)

    def fingerprint(self) -> list[str]:
        """Return each file's name, size and time of change."""
        return [f"{path.name} {_state(path)}" for path in self.paths]

    def labels(self) -> tuple[list[int], list[str]]:
        """Read the `label` column."""
        values: list[Any] = []
        for path in self.paths:
            if "label" not in parquet.read_schema(path).names:
                raise LabelError(f"{path}: no column label, which fine-tuning needs.")
            try:
                values += parquet.read_table(path, columns=["label"])["label"].to_pylist()
            except (OSError, pyarrow.ArrowException) as error:
                raise LabelError(f"{path}: the labels cannot be read ({error}).") from None
        if any(value is None or value != value for value in values):
            raise LabelError(f"{self.paths[0].parent}: some rows have no label.")
        return _index(values)


def _state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "gone"
    return f"{found.st_size} {found.st_mtime_ns}"


def _index(values: list[Any]) -> tuple[list[int], list[str]]:
    """Number the classes in sorted order."""
    try:
        classes = sorted(set(values))
    except TypeError:
        raise LabelError("labels must be one number, or one word, an image.") from None
    number = {name: index for index, name in enumerate(classes)}
    return [number[value] for value in values], [str(name) for name in classes]
