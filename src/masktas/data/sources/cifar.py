"""CIFAR-10 and CIFAR-100: the binary version, and the Python version, which torchvision checks."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.data.sources.base import IndexedSource, Item, named_classes, reason
from masktas.data.sources.remote import LocalPlace
from masktas.errors import DataError, require_extra

ROWS_PER_SHARD = 1024
SIDE, CHANNELS = 32, 3
MARKS = {  # files by which a folder is recognised
    "cifar10-binary": {"data_batch_1.bin", "batches.meta.txt"},
    "cifar100-binary": {"train.bin", "fine_label_names.txt"},
    "cifar10-python": {"data_batch_1", "batches.meta"},
    "cifar100-python": {"train", "test", "meta"},
}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


class PixelSource(IndexedSource):
    """Small images in memory.

    Args:
        name: of the data set.
        parts: name, pixels `[N, H, W, C]`, class numbers and whether it is the test split, of each
            split, the test split last.
        classes: class names.
        states: size and version of the files that the images come from; none where their digests
            have been verified.

    Attributes:
        classes: class names.
    """

    def __init__(
        self,
        name: str,
        parts: list[tuple[str, NDArray[Any], list[int], bool]],
        classes: list[str],
        states: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, [len(part[1]) for part in parts], ROWS_PER_SHARD)
        self._parts = parts
        self._states = states
        self.classes = classes

    @property
    def num_tests(self) -> int:
        """Number of test images."""
        return sum(len(pixels) for _, pixels, _, is_test in self._parts if is_test)

    def read(self, shard: int, index: int) -> Item:
        """Return the pixels of one image."""
        part, rows = self._shards[shard]
        split, pixels, _, is_test = self._parts[part]
        return Item(f"{split} {rows[index]}", pixels[rows[index]], is_test)

    def labels(self, shard: int) -> list[Any]:
        """Return the class name of each image."""
        part, rows = self._shards[shard]
        return named_classes(self._parts[part][2][rows.start : rows.stop], self.classes)

    def fingerprint(self) -> list[str]:
        """Return name, sizes, and the state of each file whose digest is not known."""
        sizes = [f"{split} {pixels.shape}" for split, pixels, _, _ in self._parts]
        return [self.location, *sizes, *self._states]


def open_cifar(kind: str, path: str, location: str) -> PixelSource:
    """Open a folder of the binary or of the Python version.

    Args:
        kind: a key of `MARKS`.
        path: the folder.
        location: as shown to the user.

    Raises:
        DataError: if a file is missing or damaged.
    """
    name, _, version = kind.partition("-")
    if version == "binary":
        return _binary(name, path, location)
    folder = os.path.abspath(path)
    if os.path.basename(folder) != FOLDERS[name]:
        raise DataError(
            f"{location}: the Python version of {TITLES[name]} is read by torchvision, which "
            f"expects it in a folder called {FOLDERS[name]}: rename it, or give the binary version."
        )
    return open_python(name, os.path.dirname(folder), location)


def open_python(name: str, root: str, location: str, *, download: bool = False) -> PixelSource:
    """Open the Python version: pickles, which torchvision opens only if their digests are right.

    Args:
        name: `cifar10` or `cifar100`.
        root: the folder above that of the files.
        location: as shown to the user.
        download: download the files if they are missing.

    Raises:
        DataError: if torchvision refuses the files, or does not find them.
    """
    datasets = require_extra("torchvision.datasets", "data", f"Reading {TITLES[name]}")
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    parts = []
    for train in (True, False):
        try:
            # torchvision verifies the digest of each file before it parses it
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = kind(root, train=train, download=download)
        except Exception as error:
            raise not_found(location, root, error) from None
        parts.append(("train" if train else "test", found.data, list(found.targets), not train))
    return PixelSource(location, parts, list(found.classes))


def not_found(location: str, root: str, error: Exception) -> DataError:
    """Return the error for files that torchvision does not find or refuses."""
    return DataError(
        f"{location}: torchvision does not find its files in {root} ({reason(error)}). Give their "
        "folder with --root, or download them with --download."
    )


def _binary(name: str, path: str, location: str) -> PixelSource:
    """Read the binary version: records of one label (CIFAR-100: coarse and fine) and the pixels."""
    files, meta, num_labels = [f"data_batch_{n}.bin" for n in range(1, 6)], "batches.meta.txt", 1
    files.append("test_batch.bin")
    if name == "cifar100":
        files, meta, num_labels = ["train.bin", "test.bin"], "fine_label_names.txt", 2
    names = _read(path, meta).decode("utf-8", errors="replace").split()
    parts = []
    for file in files:
        labels, pixels = _records(path, file, num_labels)
        if labels and max(labels) >= len(names):
            raise DataError(
                f"{os.path.join(path, file)}: it has class number {max(labels)}, but {meta} names "
                f"{len(names)} classes: the files do not belong together."
            )
        parts.append((file.removesuffix(".bin"), pixels, labels, file.startswith("test")))
    states = tuple(LocalPlace().state(os.path.join(path, file)) for file in (*files, meta))
    return PixelSource(location, parts, names, states)


def _records(path: str, file: str, num_labels: int) -> tuple[list[int], NDArray[np.uint8]]:
    """Return the last label of each record, and the pixels `[N, H, W, C]`."""
    content = np.frombuffer(_read(path, file), dtype=np.uint8)
    length = num_labels + CHANNELS * SIDE * SIDE
    if not len(content) or len(content) % length:
        raise DataError(
            f"{os.path.join(path, file)}: damaged, {len(content):,} bytes are not records of "
            f"{length:,}."
        )
    records = content.reshape(-1, length)
    pixels = records[:, num_labels:].reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)
    return records[:, num_labels - 1].tolist(), pixels


def _read(path: str, file: str) -> bytes:
    full = os.path.join(path, file)
    try:
        return LocalPlace().read(full)
    except DataError as error:
        raise DataError(f"{full}: {error}; the data set is not complete without it.") from None
