"""Data sets that torchvision knows by name. It verifies their files; we take the images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from masktas.data.sources.base import IMAGE_SUFFIXES, Item, Ranges, named_classes, reason
from masktas.data.sources.files import Listing, ListSource, walk
from masktas.data.sources.remote import LocalPlace
from masktas.errors import DataError, require_extra

ROWS_PER_SHARD = 1024
NAMES = ("cifar10", "cifar100", "oxford_iiit_pet", "flowers102", "imagenet")
SPLITS = {"oxford_iiit_pet": ("trainval", "test"), "flowers102": ("train", "val", "test")}


def open_vision(name: str, root: str | None, *, download: bool) -> PixelSource | ListSource:
    """Open one of torchvision's data sets, training and test images together.

    Args:
        name: one of `NAMES`.
        root: what torchvision calls `root`.
        download: fetch it there if it is not there; of ImageNet, unpack the archives there.

    Raises:
        DataError: if it is not there, saying how to get it.
    """
    if root is None:
        raise DataError(
            f"{name}: say with --root which folder holds torchvision's files of it; "
            "--download puts them there."
        )
    root = os.path.abspath(os.path.expanduser(root))
    if name == "imagenet":
        return _imagenet(root, download)
    if name in SPLITS:
        return _files(name, root, download)
    return _pixels(name, root, download)


class PixelSource:
    """Small images that are all in memory: parts `[N, H, W, C]`, the test split last.

    Args:
        name: of the data set.
        parts: name, pixels, class numbers and whether it is for tests, of each split.
        classes: names.
        spec: arguments that open it again.
    """

    def __init__(
        self,
        name: str,
        parts: list[tuple[str, NDArray[Any], list[int], bool]],
        classes: list[str],
        spec: dict[str, Any],
    ) -> None:
        self.location = name
        self._parts = parts
        self._classes = classes
        self._spec = spec
        ranges = [Ranges(len(part[1]), ROWS_PER_SHARD) for part in parts]
        self._shards = [(n, one[s]) for n, one in enumerate(ranges) for s in range(len(one))]

    @property
    def num_shards(self) -> int:
        """How many times 1,024 images there are."""
        return len(self._shards)

    def sizes(self) -> list[int]:
        """Return the images of each shard."""
        return [len(rows) for _, rows in self._shards]

    def stream(self, shard: int) -> Iterator[Item]:
        """Yield the images in order."""
        for index in range(len(self._shards[shard][1])):
            yield self.read(shard, index)

    def read(self, shard: int, index: int) -> Item:
        """Return one image's pixels."""
        part, rows = self._shards[shard]
        split, pixels, _, is_test = self._parts[part]
        return Item(f"{split} {rows[index]}", pixels[rows[index]], is_test)

    def labels(self, shard: int) -> list[Any]:
        """Return the names of the images' classes."""
        part, rows = self._shards[shard]
        return named_classes(self._parts[part][2][rows.start : rows.stop], self._classes)

    def fingerprint(self) -> list[str]:
        """Return name and sizes: torchvision has held the files against their digests."""
        return [self.location, *(f"{split} {pixels.shape}" for split, pixels, _, _ in self._parts)]

    def spec(self) -> dict[str, Any]:
        """Return name and root."""
        return self._spec


def _pixels(name: str, root: str, download: bool) -> PixelSource:
    datasets = require_extra("torchvision.datasets", "data", "Reading a data set by its name")

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    parts = []
    for train in (True, False):
        try:
            # torchvision compares each file with its digest before it reads it: no other is parsed
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = kind(root, train=train, download=download)
        except Exception as error:
            raise _missing(name, root, error) from None
        parts.append(("train" if train else "test", found.data, list(found.targets), not train))
    return PixelSource(name, parts, list(found.classes), {"location": name, "root": root})


def _files(name: str, root: str, download: bool) -> ListSource:
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
        # not public, but the public way decodes every image
        files = found._images if name == "oxford_iiit_pet" else found._image_files
        paths += map(str, files)
        classes = getattr(found, "classes", None)
        labels += named_classes(found._labels, classes) if classes else found._labels
        tests += [split == "test"] * len(files)
    names = [os.path.relpath(path, root) for path in paths]
    spec = {"location": name, "root": root}
    return ListSource(name, Listing(names, paths, labels, tests), LocalPlace(), spec)


def _imagenet(root: str, download: bool) -> ListSource:
    """Read the folders `train` and `val`; torchvision makes them from the archives."""
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
            "or the archives of image-net.org and give --download, which then unpacks them."
        )
    paths = [os.path.join(root, name) for name in names]
    tests = [name.startswith("val/") for name in names]
    spec = {"location": "imagenet", "root": root}
    return ListSource("imagenet", Listing(names, paths, None, tests), LocalPlace(), spec)


def _missing(name: str, root: str, error: Exception) -> DataError:
    return DataError(
        f"{name}: torchvision does not find its files in {root} ({reason(error)}). Give the folder "
        "that holds them with --root, or --download to fetch them."
    )
