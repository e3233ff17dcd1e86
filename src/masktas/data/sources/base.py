"""What a source of images is: shards that are streamed in order, and labels only on request."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from masktas.errors import DataError, LabelError

MAX_BYTES = 2**29  # a file, member or row that claims more is taken for an attack on memory
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
    """One image as its source gives it.

    Attributes:
        name: for messages: a path, `shard-3.tar: a/1.jpg`, `train.parquet row 7`.
        content: the encoded file; or pixels `[H, W]` or `[H, W, C]`; None: unreadable.
        is_test: whether the source itself says that it is a test image.
        problem: why there is no content.
    """

    name: str
    content: bytes | NDArray[Any] | None
    is_test: bool = False
    problem: str = ""


class Source(Protocol):
    """Images in shards: parts that can be read independently of each other, each in a fixed order.

    How many images a shard holds need not be known before it is read. Nothing but `labels` ever
    reads a label.

    Attributes:
        location: as shown to the user and recorded in manifests.
    """

    location: str

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        ...

    def sizes(self) -> list[int] | None:
        """Return the images of each shard, where they are known without reading them all."""
        ...

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images of a shard in order; a bad one is an item with a problem.

        Raises:
            DataError: if the shard cannot be opened or ends early, after what could be read.
        """
        ...

    def read(self, shard: int, index: int) -> Item:
        """Return one image by its place in the shard; any number of threads may.

        Raises:
            DataError: if the shard cannot be opened, or cannot be read but in order.
        """
        ...

    def labels(self, shard: int) -> list[Any]:
        """Return one value per streamed item, in order.

        Raises:
            LabelError: if there are none, saying what would give some.
        """
        ...

    def fingerprint(self) -> list[str]:
        """Return what changes when the source's content does, cheap to make."""
        ...


def class_index(values: list[Any]) -> tuple[list[int], list[str]]:
    """Number the classes in sorted order; return each value's class, and the classes' names."""
    try:
        classes = sorted(set(values))
    except TypeError:
        raise LabelError("labels must be one number, or one word, an image.") from None
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
    """

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
            f"There are: {', '.join(columns)}."
        )
    return column


def shown(name: str) -> str:
    """Make a name fit for one line of text: line breaks and broken characters are escaped."""
    if name.isprintable():
        return name
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in name
    )


def in_test_folder(name: str) -> bool:
    """Say whether the topmost folder of a relative name is called `test`."""
    top, slash, _ = name.partition("/")
    return bool(slash) and top.lower() in TEST_NAMES


def in_archived_test_folder(name: str) -> bool:
    """As `in_test_folder`; in archives, all may lie in one more folder: `photos/test/1.jpg`."""
    name = name.removeprefix("./")
    top, _, rest = name.partition("/")
    return in_test_folder(name) or (top.lower() not in SPLIT_NAMES and in_test_folder(rest))


def is_test_file(name: str) -> bool:
    """Say whether a file of many images is called test, or lies in a folder called so."""
    *folders, file = name.lower().split("/")
    return bool(re.match(r"test(?![a-z])", file)) or any(one in TEST_NAMES for one in folders)


def folder_labels(location: str, names: list[str]) -> list[str]:
    """Take the last folder above each image as its class.

    Raises:
        LabelError: if an image lies in none, or in one that is called like a split.
    """
    found = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    if any(one in ("", ".") or one.lower() in SPLIT_NAMES for one in found):
        raise LabelError(
            f"{location}: the images have no labels. Put each class into a folder of its own "
            "(photos/cat/1.jpg, photos/dog/2.jpg), or give a .parquet file with a label column."
        )
    return found


def named_classes(values: list[Any], names: list[str]) -> list[str]:
    """Name classes that are known by number; of two with one name, each keeps its number.

    Raises:
        LabelError: if a value is no class: a hidden label is -1, by custom.
    """
    if any(not isinstance(value, int) or not 0 <= value < len(names) for value in values):
        raise LabelError("some images have no label (None or -1).")
    often = Counter(names)
    unique = [name if often[name] == 1 else f"{name} ({n})" for n, name in enumerate(names)]
    return [unique[value] for value in values]


def require_labels(location: str, values: list[Any]) -> list[Any]:
    """Return the values if none is missing."""
    if any(value is None or value != value for value in values):
        raise LabelError(f"{location}: some rows have no label.")
    return values


def require_size(size: int) -> None:
    """Raise DataError for content that is too large to be one image."""
    if size > MAX_BYTES:
        raise DataError(f"{size:,} bytes are too many for one image")


def reason(error: BaseException) -> str:
    """Return what an error of another library says, in one line and without a full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return shown(lines[0]).rstrip(".") if lines else type(error).__name__
