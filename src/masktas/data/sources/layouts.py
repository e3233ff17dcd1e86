"""Data sets of image files in the folders that they are published in, with their official splits.

Official test images are the test split and nothing else; all other splits come from the training
images. Files that name images may name only those of their own folder.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masktas.data.sources.base import IMAGE_SUFFIXES, WORDNET, named_classes, reason
from masktas.data.sources.cifar import MARKS, TITLES, PixelSource, open_cifar
from masktas.data.sources.files import FileSource, Listing, walk
from masktas.data.sources.remote import LocalPlace
from masktas.errors import DataError, require_extra
from masktas.formats import shown

MAX_LIST_BYTES = 2**23  # larger than any published list of images or classes
OFFICIAL = {  # number of training and test images
    "CIFAR-10": (50_000, 10_000),
    "CIFAR-100": (50_000, 10_000),
    "Oxford-IIIT Pets": (3_680, 3_669),
    "Flowers-102": (2_040, 6_149),
    "ImageNet-1k": (1_281_167, 50_000),
}


def open_layout(path: str, location: str | None = None) -> FileSource | PixelSource | None:
    """Open a folder in a published layout; None if it is in none.

    Args:
        path: the folder.
        location: as shown to the user; by default the path.

    Raises:
        DataError: if files of the layout are missing or damaged.
    """
    names, location = set(os.listdir(path)), location or path
    for kind, marks in MARKS.items():
        if marks <= names and all(os.path.isfile(os.path.join(path, one)) for one in marks):
            found = open_cifar(kind, path, location)
            tests, classes = found.num_tests, len(found.classes)
            title = TITLES[kind.partition("-")[0]]
            found.about = _about(title, sum(found.sizes()) - tests, tests, classes)
            return found
    if os.path.exists(os.path.join(path, "annotations", "trainval.txt")) and "images" in names:
        return _pets(path, location)
    if {"setid.mat", "jpg"} <= names:
        return _flowers(path, location)
    if {"train", "val"} <= names and _in_wordnet_folders(os.path.join(path, "train")):
        return open_imagenet(path, location)
    return None


def _about(title: str, train: int, tests: int, classes: int) -> str:
    """Return the line that is printed about a data set in its own layout."""
    line = (
        f"{title} in its own layout: {train:,} training images, {tests:,} test images, "
        f"{classes:,} classes."
    )
    if (train, tests) != OFFICIAL[title]:
        line += " The official split has {:,} and {:,}.".format(*OFFICIAL[title])
    return line


def _read(path: str, name: str) -> bytes:
    """Read a list of a layout.

    Raises:
        DataError: if it is missing, too large, or no regular file.
    """
    full = os.path.join(path, name)
    try:
        content = LocalPlace().cut(full, 0, MAX_LIST_BYTES + 1)
    except DataError as error:
        raise DataError(f"{full}: {error}; the data set is not complete without it.") from None
    if len(content) > MAX_LIST_BYTES:
        raise DataError(f"{full}: larger than {MAX_LIST_BYTES:,} bytes, so it is no such list.")
    return content


def _lines(path: str, name: str) -> list[str]:
    """Return the lines of a list that are neither blank nor comments."""
    text = _read(path, name).decode("utf-8", errors="surrogateescape")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _source(
    title: str,
    path: str,
    location: str,
    names: list[str],
    labels: list[Any],
    tests: list[bool],
    note: str = "",
) -> FileSource:
    """Return the source of image files below a folder; an image listed twice is refused."""
    if len(set(names)) < len(names):
        twice = next(one for one, count in Counter(names).items() if count > 1)
        raise DataError(
            f"{location}: {shown(twice)} is listed twice, so it is not clear whether it is a "
            "training or a test image."
        )
    source = FileSource(location, Listing(names, None, labels, tests, root=path), LocalPlace())
    classes = len(set(labels) - {None})
    source.about = _about(title, len(names) - sum(tests), sum(tests), classes) + note
    return source


def _pets(path: str, location: str) -> FileSource:
    """Read Oxford-IIIT Pets: `images/`, and lists of them in `annotations/`.

    A line is the name of an image, without its ending, and numbers; the class is in the name:
    `american_bulldog_12 2 2 1`.
    """
    names: list[str] = []
    labels: list[str] = []
    tests: list[bool] = []
    for split in ("trainval", "test"):
        file = f"annotations/{split}.txt"
        for line in _lines(path, file):
            image = line.split()[0]
            breed, _, number = image.rpartition("_")
            if not breed or not number.isdigit() or "/" in image:
                raise DataError(
                    f"{os.path.join(path, file)}: {shown(image[:80])!r} is not the name of an "
                    "image, such as Abyssinian_1."
                )
            names.append(f"images/{image}.jpg")
            labels.append(" ".join(word.title() for word in breed.split("_")))
            tests.append(split == "test")
    return _source("Oxford-IIIT Pets", path, location, names, labels, tests)


def _flowers(path: str, location: str) -> FileSource:
    """Read Flowers-102: `jpg/`, class numbers in `imagelabels.mat`, splits in `setid.mat`.

    The small parts `trnid` and `valid` train, the large `tstid` tests. Some mirrors have trnid and
    tstid swapped, so the larger of the two is the test split.
    """
    numbers = _matrix(path, "imagelabels.mat", ("labels",))["labels"]
    parts = _matrix(path, "setid.mat", ("trnid", "valid", "tstid"))
    swapped = len(parts["trnid"]) > len(parts["tstid"])
    test = parts["trnid"] if swapped else parts["tstid"]
    train = [*(parts["tstid"] if swapped else parts["trnid"]), *parts["valid"]]
    ids = [*train, *test]
    if any(not 1 <= one <= len(numbers) for one in ids):
        raise DataError(
            f"{path}/setid.mat: it names images that imagelabels.mat, of {len(numbers):,}, does "
            "not have."
        )
    note = " Its setid.mat has trnid and tstid swapped: the small part trains." if swapped else ""
    return _source(
        "Flowers-102",
        path,
        location,
        [f"jpg/image_{one:05d}.jpg" for one in ids],
        _flower_names([numbers[one - 1] for one in ids]),
        [False] * len(train) + [True] * len(test),
        note,
    )


def _flower_names(numbers: list[int]) -> list[Any]:
    """Return the class names of numbers from 1, which torchvision lists; else the numbers."""
    datasets = require_extra("torchvision.datasets", "data", "Reading Flowers-102")
    names = getattr(datasets.Flowers102, "classes", None)
    if not isinstance(names, Sequence) or not all(1 <= one <= len(names) for one in numbers):
        return numbers
    return named_classes([one - 1 for one in numbers], list(names))


def _matrix(path: str, name: str, keys: tuple[str, ...]) -> dict[str, list[int]]:
    """Read rows of whole numbers from a file of MATLAB."""
    scipy_io = require_extra("scipy.io", "data", "Reading Flowers-102")
    content = _read(path, name)
    try:
        found = scipy_io.loadmat(io.BytesIO(content), variable_names=keys)
        return {key: [int(one) for one in found[key].ravel()] for key in keys}
    except Exception as error:  # scipy raises whatever damaged bytes lead to
        raise DataError(
            f"{os.path.join(path, name)}: damaged, {', '.join(keys)} cannot be read "
            f"({type(error).__name__}: {reason(error)})."
        ) from None


def open_imagenet(path: str, location: str) -> FileSource:
    """Read ImageNet-1k: folders `train` and `val`; the images in `val` are the test images.

    Classes are folders with WordNet ids, to which the usual names are added (`n01440764 tench,
    Tinca tinca`, so that the order of classes is the usual one): those of a file
    `LOC_synset_mapping.txt` beside the folders, or else timm's. Images directly in `val` have the
    classes that `LOC_val_solution.csv` lists.
    """
    names = [
        f"{split}/{name}"
        for split in ("train", "val")
        if os.path.isdir(os.path.join(path, split))
        for name in sorted(walk(Path(path, split), IMAGE_SUFFIXES))
    ]
    if not any(name.startswith("train/") for name in names):
        raise DataError(
            f"{location}: no images in {path}/train. Put torchvision's folders train and val "
            "there, or the archives of image-net.org, and use --download to unpack them."
        )
    lines = _optional(path, "LOC_synset_mapping.txt") or _wordnet_names()
    synsets = {line.split()[0]: line.strip() for line in lines}
    solution = [line.split(",", 1) for line in _optional(path, "LOC_val_solution.csv")]
    of_val = {row[0]: row[1].split()[0] for row in solution if len(row) == 2 and row[1].strip()}
    labels: list[str | None] = []
    for name in names:
        _, below, *rest = name.split("/")
        wordnet = below if rest else of_val.get(below.partition(".")[0])
        labels.append(None if wordnet is None else synsets.get(wordnet, wordnet))
    tests = [name.startswith("val/") for name in names]
    return _source("ImageNet-1k", path, location, names, labels, tests)


def _wordnet_names() -> list[str]:
    """Return id and name of each of the 1,000 classes, as timm lists them."""
    from timm.data import ImageNetInfo  # with torch and torchvision: only where it is needed

    info = ImageNetInfo()
    ids = info.label_names()
    return [f"{one} {info.index_to_description(number)}" for number, one in enumerate(ids)]


def _optional(path: str, name: str) -> list[str]:
    """Return the lines of a list, none if it is not there."""
    return _lines(path, name) if os.path.exists(os.path.join(path, name)) else []


def _in_wordnet_folders(path: str) -> bool:
    """Say whether a folder holds folders with WordNet ids as names, and no others."""
    if not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        folders = [one.name for one in entries if one.is_dir() and one.name[0] != "."]
    return bool(folders) and all(WORDNET.fullmatch(name) for name in folders)
