"""Data sets by the names that torchvision gives them, in torchvision's folders below `--root`."""

from __future__ import annotations

import os
from typing import Any

from masktas.data.sources.cifar import PixelSource, not_found, open_python
from masktas.data.sources.files import FileSource
from masktas.data.sources.layouts import open_imagenet, open_layout
from masktas.errors import DataError, require_extra

NAMES = ("cifar10", "cifar100", "oxford_iiit_pet", "flowers102", "imagenet")
FOLDERS = {"oxford_iiit_pet": "oxford-iiit-pet", "flowers102": "flowers-102"}


def open_vision(name: str, root: str | None, *, download: bool) -> FileSource | PixelSource:
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
    if name in ("cifar10", "cifar100"):
        return open_python(name, root, name, download=download)
    if download:
        _download(name, root)
    if name == "imagenet":
        return open_imagenet(root, name)
    folder = os.path.join(root, FOLDERS[name])
    found = open_layout(folder, name) if os.path.isdir(folder) else None
    if found is None:
        raise not_found(name, root, DataError(f"{folder} is missing or not complete"))
    return found


def _download(name: str, root: str) -> None:
    """Let torchvision download a data set, or unpack the archives of ImageNet."""
    datasets = require_extra("torchvision.datasets", "data", "Reading a data set by its name")
    kinds: dict[str, Any] = {
        "oxford_iiit_pet": lambda: datasets.OxfordIIITPet(root, download=True),
        "flowers102": lambda: datasets.Flowers102(root, download=True),
        "imagenet": lambda: [datasets.ImageNet(root, split=one) for one in ("train", "val")],
    }
    if name == "imagenet" and os.path.isdir(os.path.join(root, "train")):
        return
    try:
        kinds[name]()
    except Exception as error:
        raise not_found(name, root, error) from None
