"""Data sets of torchvision by name; torchvision verifies their files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from masktas.data.sources.base import IMAGE_SUFFIXES, IndexedSource, Item, named_classes, reason
from masktas.data.sources.files import FileSource, Listing, walk
from masktas.data.sources.remote import LocalPlace
from masktas.errors import DataError, require_extra

ROWS_PER_SHARD = 1024
NAMES = ("cifar10", "cifar100", "oxford_iiit_pet", "flowers102", "imagenet")
SPLITS = {"oxford_iiit_pet": ("trainval", "test"), "flowers102": ("train", "val", "test")}


def open_vision(name: str, root: str | None, *, download: bool) -> PixelSource | FileSource:
    """Open a data set of torchvision, training and test images together.

    Args:
        name: one of `NAMES`.
        root: the `root` of torchvision.
        download: download it to `root` if it is missing; for ImageNet, unpack its archives.

    Raises:
        DataError: if its files are missing, with advice on how to get them.
    """
    if root is None:
        raise DataError(
            f"{name}: set --root to the folder of its torchvision files; --download downloads "
            "them to it."
        )
    root = os.path.abspath(os.path.expanduser(root))
    if name == "imagenet":
        return _imagenet(root, download)
    if name in SPLITS:
        return _files(name, root, download)
    return _pixels(name, root, download)


class PixelSource(IndexedSource):
    """Small images in memory.

    Args:
        name: of the data set.
        parts: name, pixels `[N, H, W, C]`, class numbers and whether it is the test split, of each
            split, the test split last.
        classes: class names.
    """

    def __init__(
        self,
        name: str,
        parts: list[tuple[str, NDArray[Any], list[int], bool]],
        classes: list[str],
    ) -> None:
        super().__init__(name, [len(part[1]) for part in parts], ROWS_PER_SHARD)
        self._parts = parts
        self._classes = classes

    def read(self, shard: int, index: int) -> Item:
        """Return the pixels of one image."""
        part, rows = self._shards[shard]
        split, pixels, _, is_test = self._parts[part]
        return Item(f"{split} {rows[index]}", pixels[rows[index]], is_test)

    def labels(self, shard: int) -> list[Any]:
        """Return the class name of each image."""
        part, rows = self._shards[shard]
        return named_classes(self._parts[part][2][rows.start : rows.stop], self._classes)

    def fingerprint(self) -> list[str]:
        """Return name and sizes; torchvision has verified the digests of the files."""
        return [self.location, *(f"{split} {pixels.shape}" for split, pixels, _, _ in self._parts)]


def _pixels(name: str, root: str, download: bool) -> PixelSource:
    datasets = require_extra("torchvision.datasets", "data", "Reading a data set by its name")

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    parts = []
    for train in (True, False):
        try:
            # torchvision verifies the digest of each file before it parses it
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = kind(root, train=train, download=download)
        except Exception as error:
            raise _missing(name, root, error) from None
        parts.append(("train" if train else "test", found.data, list(found.targets), not train))
    return PixelSource(name, parts, list(found.classes))


def _files(name: str, root: str, download: bool) -> FileSource:
    datasets = require_extra("torchvision.datasets", "data", "Reading a data set by its name")

    kind: Any = {"oxford_iiit_pet": datasets.OxfordIIITPet, "flowers102": datasets.Flowers102}[name]
    paths: list[str] = []
    labels: list[Any] = []
    tests: list[bool] = []
    for split in SPLITS[name]:
        try:
            found = kind(root, split=split, download=download)
        except Exception as error:
            raise _missing(name, root, error) from None
        # private, but the public interface decodes every image
        files = found._images if name == "oxford_iiit_pet" else found._image_files
        paths += map(str, files)
        classes = getattr(found, "classes", None)
        labels += named_classes(found._labels, classes) if classes else found._labels
        tests += [split == "test"] * len(files)
    names = [os.path.relpath(path, root) for path in paths]
    return FileSource(name, Listing(names, paths, labels, tests), LocalPlace())


def _imagenet(root: str, download: bool) -> FileSource:
    """Read the folders `train` and `val`, which torchvision unpacks from the archives."""
    if download and not os.path.isdir(os.path.join(root, "train")):
        datasets = require_extra("torchvision.datasets", "data", "Reading a data set by its name")

        for split in ("train", "val"):
            try:
                datasets.ImageNet(root, split=split)
            except Exception as error:
                raise _missing("imagenet", root, error) from None
    names = [
        f"{split}/{name}"
        for split in ("train", "val")
        if os.path.isdir(os.path.join(root, split))
        for name in sorted(walk(Path(root, split), IMAGE_SUFFIXES))
    ]
    if not any(name.startswith("train/") for name in names):
        raise DataError(
            f"imagenet: no images in {root}/train. Put torchvision's folders train and val there, "
            "or put the archives of image-net.org there and use --download to unpack them."
        )
    paths = [os.path.join(root, name) for name in names]
    tests = [name.startswith("val/") for name in names]
    return FileSource("imagenet", Listing(names, paths, None, tests), LocalPlace())


def _missing(name: str, root: str, error: Exception) -> DataError:
    return DataError(
        f"{name}: torchvision does not find its files in {root} ({reason(error)}). Give their "
        "folder with --root, or download them with --download."
    )
