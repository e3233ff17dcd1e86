"""Interface of image sources: shards that are streamed in order, and labels on request."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from masktas.errors import DataError, LabelError
from masktas.formats import shown

MAX_BYTES = 2**29  # larger files, members and rows are refused
WORDNET = re.compile(r"n\d{8}")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm",
    ".avif", ".tga", ".npy",
)  # fmt: skip
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "picture", "photo", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "target", "fine_label")
TEST_NAMES = ("test",)
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", *TEST_NAMES)


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    Attributes:
        name: for messages: a path, `shard-3.tar: a/1.jpg`, `train.parquet row 7`.
        content: the encoded file; or pixels `[H, W]` or `[H, W, C]`; None if unreadable.
        is_test: whether the source declares it as a test image.
        problem: reason for missing content.
    """

    name: str
    content: bytes | NDArray[Any] | None
    is_test: bool = False
    problem: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of the content."""
        if isinstance(self.content, np.ndarray):
            return self.content.nbytes
        return 0 if self.content is None else len(self.content)

    def without_content(self) -> Item:
        """Return the same item without its content, which may be large."""
        return Item(self.name, None, self.is_test, self.problem)


class Source(Protocol):
    """Images in shards that can be read independently, each in a fixed order.

    The number of images of a shard may be unknown before it is read. Only `labels` reads labels.

    Attributes:
        location: as shown to the user and recorded in manifests.
    """

    location: str

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        ...

    def sizes(self) -> list[int] | None:
        """Return the number of images of each shard; None if unknown before reading."""
        ...

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images of a shard in order; an unreadable one is an item with a problem.

        Raises:
            DataError: if the shard cannot be opened or ends early, after the readable images.
        """
        ...

    def read(self, shard: int, index: int) -> Item:
        """Return one image by its index in the shard; thread-safe.

        Raises:
            DataError: if the shard cannot be opened, or can only be streamed.
        """
        ...

    def labels(self, shard: int) -> list[Any]:
        """Return one label per streamed item, in order.

        Raises:
            LabelError: if there are no labels, with advice on how to provide them.
        """
        ...

    def fingerprint(self) -> list[str]:
        """Return strings that change with the content of the source, without reading all of it."""
        ...


def contents_digest(*sources: Source) -> str:
    """Return a digest that changes with the contents of sources."""
    lines = [line for source in sources for line in source.fingerprint()]
    content = "\n".join(lines).encode(errors="surrogateescape")
    return hashlib.sha256(content).hexdigest()[:16]


def class_index(values: list[Any]) -> tuple[list[int], list[str]]:
    """Number the classes in sorted order; return the class of each value, and the class names."""
    try:
        classes = sorted(set(values))
    except TypeError:
        raise LabelError("each label must be one number or one word.") from None
    number = {name: index for index, name in enumerate(classes)}
    return [number[value] for value in values], [str(name) for name in classes]


def runs(total: int, length: int) -> list[range]:
    """Cut the indices of `total` images into shards of up to `length`."""
    return [range(start, min(start + length, total)) for start in range(0, total, length)]


class IndexedSource(ABC):
    """Base of sources that find images by index: parts of known length, each cut into shards.

    Args:
        location: as shown to the user and recorded in manifests.
        totals: number of images of each part.
        length: maximum number of images of a shard.

    Attributes:
        about: a line to print about a data set that is recognised by its layout.
    """

    about = ""

    def __init__(self, location: str, totals: Iterable[int], length: int) -> None:
        self.location = location
        self._shards = [(n, run) for n, total in enumerate(totals) for run in runs(total, length)]

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self._shards)

    def sizes(self) -> list[int]:
        """Return the number of images of each shard."""
        return [len(run) for _, run in self._shards]

    @property
    def num_tests(self) -> int:
        """Number of images that are declared as test images, where that is known unread."""
        return 0

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images of a shard in order."""
        for index in range(len(self._shards[shard][1])):
            yield self.read(shard, index)

    @abstractmethod
    def read(self, shard: int, index: int) -> Item:
        """Return one image by its index in the shard."""


def label_column(location: str, wanted: str | None, columns: Sequence[str]) -> str:
    """Return the column of labels: the wanted one, else the first with a common name.

    Raises:
        LabelError: if there is no such column.
    """
    column = wanted or next((one for one in LABEL_COLUMNS if one in columns), None)
    if column is None or column not in columns:
        raise LabelError(
            f"{location}: no column {column or 'label'}, which fine-tuning needs. "
            f"There are: {', '.join(map(shown, columns))}."
        )
    return column


def in_test_folder(name: str) -> bool:
    """Return whether the topmost folder of a relative name is called `test`."""
    top, slash, _ = name.partition("/")
    return bool(slash) and top.lower() in TEST_NAMES


def in_archived_test_folder(name: str) -> bool:
    """Do the same for archives, where one more folder may contain all: `photos/test/1.jpg`."""
    name = name.removeprefix("./")
    top, _, rest = name.partition("/")
    return in_test_folder(name) or (top.lower() not in SPLIT_NAMES and in_test_folder(rest))


def is_test_file(name: str) -> bool:
    """Return whether a file of many images, or a folder it is in, is called test."""
    *folders, file = name.lower().split("/")
    return bool(re.match(r"test(?![a-z])", file)) or any(one in TEST_NAMES for one in folders)


def folder_labels(location: str, names: list[str]) -> list[str]:
    """Return the last folder of each name as its class.

    Raises:
        LabelError: if an image is in no folder, or in one that is named like a split.
    """
    found = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    if any(one in ("", ".") or one.lower() in SPLIT_NAMES for one in found):
        raise LabelError(
            f"{location}: the images have no labels. Put each class into a folder of its own "
            "(photos/cat/1.jpg, photos/dog/2.jpg), or give a .parquet file with a label column."
        )
    return found


def class_id(name: str) -> str:
    """Return what identifies a class by its name: a WordNet id, without the words that follow."""
    first = name.partition(" ")[0]
    return first if WORDNET.fullmatch(first) else name


def named_classes(values: list[Any], names: list[str]) -> list[str]:
    """Return the class name of each number; equal names get their number appended.

    Raises:
        LabelError: if a value is not a class; missing labels are often -1.
    """
    if any(not isinstance(value, int) or not 0 <= value < len(names) for value in values):
        raise LabelError("some images have no label (None or -1).")
    unique = told_apart(names)
    return [unique[value] for value in values]


def told_apart(names: list[str], first: int = 0) -> list[str]:
    """Return the names of classes, numbered from `first`; equal ones get their number appended."""
    often = Counter(names)
    return [n if often[n] == 1 else f"{n} ({number})" for number, n in enumerate(names, first)]


def require_labels(location: str, values: list[Any]) -> list[Any]:
    """Return the values; raise LabelError if one is missing."""
    if any(value is None or value != value for value in values):
        raise LabelError(f"{location}: some rows have no label.")
    return values


def require_size(size: int) -> None:
    """Raise DataError if content is too large for one image."""
    if size > MAX_BYTES:
        raise DataError(f"{size:,} bytes are too many for one image")


def reason(error: BaseException) -> str:
    """Return the message of an exception, in one line and without a full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return shown(lines[0]).rstrip(".") if lines else type(error).__name__
