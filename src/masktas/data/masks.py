"""Images with a segmentation mask each: folders, tables, ADE20K; and the classes of the masks.

Images and masks are two sources, whose items belong together in pairs. Masks are matched by name,
or are another column of the same table.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masktas.data.sources.base import IMAGE_SUFFIXES, Source, told_apart
from masktas.data.sources.files import FileSource, Listing, walk
from masktas.data.sources.open import open_source
from masktas.data.sources.remote import LocalPlace
from masktas.errors import DataError
from masktas.formats import shown

IGNORED = -1  # the class of pixels that no class is asked of
IMAGE_FOLDERS = ("images", "image", "imgs", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "SegmentationClass")
MASK_COLUMNS = ("mask", "annotation", "segmentation", "label")
CLASSES = "classes.json"
MOST_FOUND = 256  # more different values are no classes
SPLIT_WORDS = {  # a name is one of them, or begins with one and no letter after it
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
# ADE20K, SceneParsing: 150 classes, 0 is anything else
ADE_FOLDERS = ("images/training", "annotations/training", "images/validation")
ADE_NAMES = "objectInfo150.txt"
ADE_CLASSES = 150

Place = tuple[int, int]  # shard, and index in it


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of masks.

    Attributes:
        values: number of each class in the masks.
        names: of each class.
        ignored: numbers of pixels that are left out of training and measurements.
        others_ignored: whether every other number is left out too, instead of being an error.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    ignored: tuple[int, ...]
    others_ignored: bool = False

    def indices(self, mask: NDArray[np.int32], name: str) -> NDArray[np.int16]:
        """Return the class index of each pixel of a mask `[H, W]`, `IGNORED` where there is none.

        `name` is that of its image.

        Raises:
            DataError: if the mask holds a number that is neither a class nor ignored, unless others
                are ignored too.
        """
        known = np.array([*self.values, *self.ignored])
        order = np.argsort(known)
        at = np.searchsorted(known, mask, sorter=order).clip(max=len(known) - 1)
        found = order[at]
        wrong = known[found] != mask
        if wrong.any() and not self.others_ignored:
            raise self.unknown(int(mask[wrong][0]), name)
        return np.where((found < len(self.values)) & ~wrong, found, IGNORED).astype(np.int16)

    def unknown(self, value: int, name: str) -> DataError:
        """Return the error for a number that is no class, in the mask of an image `name`."""
        ignored = ", ".join(map(str, self.ignored))
        return DataError(
            f"{name}: its mask holds {value}, which is none of the {len(self.values)} classes "
            f"({_ranges(self.values)}) and is not ignored ({ignored}): add it to {CLASSES}, or "
            "name it as --ignore."
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images and their masks.

    Attributes:
        location: as the user wrote it.
        images, masks: their sources.
        places: of the image and of the mask of each pair.
        in_table: whether a pair is a row of a table, which may have no mask.
        unpaired: number of images without a mask, which are left out.
        classes: where the source says what they are; else None.
    """

    location: str
    images: Source
    masks: Source
    places: list[tuple[Place, Place]]
    in_table: bool
    unpaired: int
    classes: Classes | None


def open_pairs(location: str, *, image_column: str | None, ignore: int) -> Pairs:
    """Open images with masks.

    Args:
        location: a folder with a folder of images and one of masks, which are paired by name; one
            in the layout of ADE20K; or parquet files with a column of masks.
        image_column: column of the images, detected if None.
        ignore: number of the pixels to leave out, for classes that the source lists.

    Raises:
        DataError: if there are no pairs.
    """
    root = Path(location)
    if root.is_dir() and all((root / one).is_dir() for one in ADE_FOLDERS):
        return _paired(location, root / "images", root / "annotations", _ade(root))
    if root.is_dir() and not list(root.glob("*.parquet")):
        folders = [_one_of(location, root, names) for names in (IMAGE_FOLDERS, MASK_FOLDERS)]
        return _paired(location, folders[0], folders[1], _listed(root, ignore))
    return _of_table(location, image_column, ignore)


def classes_of(names: Sequence[str], ignore: int, where: object = "--classes") -> Classes:
    """Return the classes 0, 1, 2... of some names, without the number to ignore.

    Raises:
        DataError: if they are fewer than two, or two have one name.
    """
    named = [(value, name) for value, name in enumerate(names) if value != ignore]
    found = Classes(tuple(v for v, _ in named), tuple(name for _, name in named), (ignore,))
    return _checked(found, where)


def _checked(classes: Classes, where: object) -> Classes:
    """Return listed classes; raise DataError unless there are two or more, each with its name."""
    twice = sorted({name for name in classes.names if classes.names.count(name) > 1})
    if len(classes.names) < 2 or not all(classes.names) or twice:
        problem = (
            f"{shown(twice[0])} is two of them" if twice else f"{len(classes.names)} are named"
        )
        raise DataError(
            f"{where}: segmentation needs two classes or more, each with a name of its own, and "
            f"{problem}."
        )
    return classes


def found_classes(location: str, values: Iterable[int], ignore: int) -> Classes:
    """Return the classes of the numbers that occur in the masks.

    Raises:
        DataError: if they are too many or too few to be classes.
    """
    kept = tuple(sorted(set(values) - {ignore}))
    if len(kept) > MOST_FOUND:
        raise DataError(
            f"{location}: the masks hold {len(kept):,} different numbers, so they are no numbers "
            f"of classes: list the classes in {CLASSES}, or save masks as PNG with one number for "
            "each class."
        )
    if len(kept) < 2:
        raise DataError(
            f"{location}: the masks hold {len(kept)} class beside {ignore}, which is ignored: "
            "segmentation needs two or more (--ignore names another number)."
        )
    return Classes(kept, tuple(map(str, kept)), (ignore,))


def places_of(source: Source) -> list[Place]:
    """List shard and index of every item of a source."""
    sizes = source.sizes()
    assert sizes is not None  # of files and tables
    return [(shard, index) for shard, size in enumerate(sizes) for index in range(size)]


def declared_split(name: str) -> str:
    """Return the split that an image's name declares: train, validation, test, or an empty text.

    It is that of the first folder (`val/1.jpg`), or of a table's file, folder or split:
    `val-0.parquet row 1`, `val/0000.parquet row 1`, `validation row 1`.
    """
    row = re.fullmatch(r"(.*) row \d+", name)
    parts = row[1].split("/")[::-1] if row else name.split("/")[:-1][:1]
    words = (re.match(r"[a-z]*", part.lower()) for part in parts)
    found = (SPLIT_WORDS.get(word[0], "") for word in words if word is not None)
    return next(filter(None, found), "")


# --- folders -------------------------------------------------------------------------------------


def _one_of(location: str, root: Path, names: Sequence[str]) -> Path:
    """Return the first of some folders that exists."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(
        f"{location}: no folder {' or '.join(names)} in it. Segmentation needs a folder of images "
        "and one of masks with the same names (images/a.jpg, masks/a.png), ADE20K's folders, or "
        "parquet files with the columns image and mask."
    )


def _paired(location: str, images: Path, masks: Path, classes: Classes | None) -> Pairs:
    """Pair the files of two folders by their names without the suffix."""
    of_images, of_masks = _by_stem(images), _by_stem(masks)
    common = sorted(of_images.keys() & of_masks.keys())
    if not common:
        example = next(iter(sorted(of_images.values())), "a.jpg")
        raise DataError(
            f"{location}: no image of {images.name} has a mask in {masks.name}: the mask of "
            f"{shown(example)} is to be called {shown(os.path.splitext(example)[0])}.png."
        )
    sources = [
        FileSource(
            location, Listing([found[stem] for stem in common], root=str(root)), LocalPlace()
        )
        for root, found in ((images, of_images), (masks, of_masks))
    ]
    places = list(zip(*(places_of(source) for source in sources), strict=True))
    return Pairs(
        location,
        sources[0],
        sources[1],
        places,
        False,
        len(of_images) - len(common),
        classes,
    )


def _by_stem(root: Path) -> dict[str, str]:
    """Return the names of the files below a folder, by their names without the suffix."""
    found: dict[str, str] = {}
    for name in sorted(walk(root, IMAGE_SUFFIXES)):
        if name.endswith("/"):
            raise DataError(f"{root}: the folder {shown(name)} cannot be read.")
        stem = os.path.splitext(name)[0]
        if stem in found:
            raise DataError(
                f"{root}: {shown(found[stem])} and {shown(name)} have the same name, so their "
                "mask is not known: rename one of them."
            )
        found[stem] = name
    return found


def _listed(root: Path, ignore: int) -> Classes | None:
    """Read `classes.json`: a list of names, or an object from numbers to names."""
    path = root / CLASSES
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            return classes_of([str(name) for name in content], ignore, path)
        named = {int(value): str(name) for value, name in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: neither a list of names nor an object from numbers to names, such as "
            f'{{"0": "road", "1": "tree"}} ({error}).'
        ) from None
    kept = sorted(value for value in named if value != ignore)
    found = Classes(tuple(kept), tuple(named[value] for value in kept), (ignore,))
    return _checked(found, path)


def _ade(root: Path) -> Classes:
    """Return ADE20K's classes; their names where the file of names is there."""
    names = [str(number) for number in range(1, ADE_CLASSES + 1)]
    if (root / ADE_NAMES).exists():
        lines = (root / ADE_NAMES).read_text(encoding="utf-8", errors="replace").splitlines()
        rows = [re.split(r"\t+", line.strip()) for line in lines[1:] if line.strip()]
        if len(rows) == ADE_CLASSES:
            names = told_apart([row[-1].split(",")[0].strip() for row in rows], first=1)
    return Classes(tuple(range(1, ADE_CLASSES + 1)), tuple(names), (0,))


# --- tables --------------------------------------------------------------------------------------


def _of_table(location: str, image_column: str | None, ignore: int) -> Pairs:
    """Open parquet files: images in one column, masks in another of the same row."""
    images = open_source(location, image_column=image_column)
    masks, problem = None, ""
    for column in MASK_COLUMNS:
        try:
            masks = open_source(location, image_column=column)
            break
        except DataError as error:
            problem = problem or str(error)
    if masks is None or images.sizes() is None:
        raise DataError(
            f"{location}: no masks ({problem.rstrip('.')}). Segmentation needs parquet files with "
            "the columns image and mask, or a folder images beside a folder masks."
        )
    root = Path(location)
    return Pairs(
        location,
        images,
        masks,
        [(place, place) for place in places_of(images)],
        True,
        0,
        _listed(root if root.is_dir() else root.parent, ignore),
    )


def _ranges(values: Sequence[int]) -> str:
    """Write numbers shortly: 0 to 10, or the first and the last few."""
    if len(values) == values[-1] - values[0] + 1:
        return f"{values[0]} to {values[-1]}"
    texts = [str(value) for value in values]
    return ", ".join(texts if len(texts) <= 8 else [*texts[:4], "...", *texts[-2:]])
