"""Images and masks of a segmentation: checked once, divided, and read at their own size on demand.

The cache of decoded images holds images of one size, and segmentation needs them at their own: so
they are decoded whenever they are read, by the same decoder, in threads.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masktas.data.decode.image import decode, dimensions
from masktas.data.decode.mask import decode_mask
from masktas.data.masks import (
    Classes,
    Pairs,
    declared_split,
    found_classes,
)
from masktas.data.sources import Item
from masktas.data.splits import SPLITS, describe_splits, split_by_content
from masktas.data.store.image_store import SplitAccess
from masktas.errors import DataError, UndecodableImage

MAX_LISTED = 20  # names of skipped images in a manifest
STATISTICS_IMAGES = 200  # images that mean and std are measured on
THREADS = 8


ShowBar = Callable[[str, int | None], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Scanned:
    """What is known of one pair after it was read once.

    Attributes:
        number: of the pair, in `Pairs.places`.
        name: of the image.
        size: (height, width).
        image, both: digests of the image and of image and mask, 16 bytes.
        counts: number of pixels of each number in the mask.
        problem: why the image cannot be used; None if it can.
    """

    number: int
    name: str
    size: tuple[int, int]
    image: bytes
    both: bytes
    counts: dict[int, int]
    problem: str | None = None


class SegmentationImages:
    """Labelled images, divided into splits; images and masks are read when they are asked for.

    Args:
        pairs: images and masks.
        in_channels: of the images.
        white: see `decode`.
        access: split shares, the splits that may be read, and `mean` and `std` where given.
        classes: of the masks; None for those of the source, or those found.
        ignore: number of the pixels to leave out, where classes are found.
        strict: whether an image that cannot be decoded stops everything, instead of being skipped.
        bar: shows progress.
        tested: all of them, or those that the source declares as test images, are the test split
            of images that are not divided; None divides them.

    Attributes:
        classes: of the masks.
        white: see `decode`.
        folder: where the images are.
        splits: number of images of each split, and a digest of images and masks.
        mean, std: of each channel, in [0, 1].
        validation_is_test: whether the validation images that the source declares are the test
            split, because it declares no test images.

    Raises:
        DataError: if a mask does not fit its image or its classes, or a split is empty.
    """

    def __init__(
        self,
        pairs: Pairs,
        *,
        in_channels: int,
        white: float | None,
        access: SplitAccess,
        classes: Classes | None,
        ignore: int,
        strict: bool,
        bar: ShowBar,
        tested: Literal["all", "test"] | None = None,
    ) -> None:
        self._pairs, self._channels, self.white = pairs, in_channels, white
        self.access, self.folder = access, Path(pairs.location)
        scanned = self._scan(bar)
        broken = [one for one in scanned if one.problem is not None]
        if broken and strict:
            raise UndecodableImage(broken[0].name, str(broken[0].problem))
        self._images = [one for one in scanned if one.problem is None and one.counts]
        self._unlabelled = pairs.unpaired + sum(
            one.problem is None and not one.counts for one in scanned
        )
        self._skipped = [{"name": one.name, "problem": str(one.problem)} for one in broken]
        if not self._images:
            raise DataError(f"{pairs.location}: no image with a mask can be read.")
        values = {value for one in self._images for value in one.counts}
        listed = pairs.classes if classes is None else classes
        self.classes: Classes = listed or found_classes(pairs.location, values, ignore)
        known = {*self.classes.values, *self.classes.ignored}
        for one in () if self.classes.others_ignored else self._images:
            if unknown := sorted(one.counts.keys() - known):
                raise self.classes.unknown(unknown[0], one.name)
        if tested is None:
            self._divide()
            self.require("supernet", "validation", "test")
            self._require_two_classes()
        else:
            self._keep(tested)
            self.require("test")
        self.mean, self.std = self._statistics()

    def _scan(self, bar: ShowBar) -> list[Scanned]:
        """Read every pair once, in threads."""
        total = len(self._pairs.places)
        found: list[Scanned] = []
        with ThreadPoolExecutor(THREADS) as threads, bar("reading masks", total) as shown:
            try:
                for one in threads.map(self._scan_one, range(total)):
                    found.append(one)
                    shown.update(len(found))
            except DataError:
                threads.shutdown(cancel_futures=True)
                raise
        return found

    def _scan_one(self, number: int) -> Scanned:
        of_image, of_mask = self._pairs.places[number]
        image, mask = self._pairs.images.read(*of_image), self._pairs.masks.read(*of_mask)
        unusable = Scanned(number, image.name, (0, 0), b"", b"", {})
        if mask.content is None and self._pairs.in_table:
            return unusable
        if image.content is None:
            return Scanned(number, image.name, (0, 0), b"", b"", {}, image.problem)
        assert isinstance(image.content, bytes)
        try:
            size = dimensions(image.content)
            # whole: a file may be cut off, and training must not end by it
            decode(image.content, size=size, in_channels=self._channels, white=self.white)
        except DataError as error:
            return Scanned(number, image.name, (0, 0), b"", b"", {}, str(error))
        values = _numbers_of(mask)
        if values.shape != size:
            raise DataError(
                f"{mask.name}: the mask is {values.shape[0]} x {values.shape[1]} pixels and its "
                f"image {image.name} is {size[0]} x {size[1]}: a mask needs the size of its image."
            )
        numbers, counts = np.unique(values, return_counts=True)
        digests = [hashlib.sha256(image.content), hashlib.sha256(image.content)]
        assert isinstance(mask.content, bytes)
        digests[1].update(mask.content)
        first, both = (digest.digest()[:16] for digest in digests)
        counted = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        return Scanned(number, image.name, size, first, both, counted)

    def _mask(self, number: int) -> NDArray[np.int32]:
        """Read the numbers of a mask.

        Raises:
            DataError: if it cannot be decoded; the sentence names the file.
        """
        return _numbers_of(self._pairs.masks.read(*self._pairs.places[number][1]))

    def _divide(self) -> None:
        """Assign images to splits, by what the source declares and else by content."""
        declared = [declared_split(one.name) for one in self._images]
        test = "test" if "test" in declared else "validation"
        self.validation_is_test = test == "validation" and test in declared
        digests = np.frombuffer(b"".join(one.image for one in self._images), np.uint8)
        digests = digests.reshape(-1, 16)
        tests = np.array([one == test for one in declared])
        splits = split_by_content(digests, tests, **self.access.shares)
        held = np.array([one == "validation" for one in declared])
        if test == "test" and held.any():
            number = SPLITS.index("validation")
            keys = digests.copy().view("V16")[:, 0]
            splits[splits == number] = SPLITS.index("supernet")
            splits[np.isin(keys, keys[held]) & (splits != SPLITS.index("test"))] = number
        self._describe(splits)

    def _keep(self, tested: Literal["all", "test"]) -> None:
        """Make all images, or those that the source declares as test images, the test split."""
        declared = [declared_split(one.name) for one in self._images]
        test = "test" if "test" in declared else "validation"
        self.validation_is_test = tested == "test" and test == "validation"
        if tested == "test":
            pairs = zip(self._images, declared, strict=True)
            self._images = [one for one, split in pairs if split == test]
        if not self._images:
            raise DataError(
                f"{self._pairs.location}: no image is in a test split of its own: leave out "
                "--split test to evaluate on all of them."
            )
        self._describe(np.full(len(self._images), SPLITS.index("test"), np.int8))

    def _describe(self, splits: NDArray[np.int8]) -> None:
        """Keep a division, with the digest of images and masks of each split."""
        both = np.frombuffer(b"".join(one.both for one in self._images), np.uint8).reshape(-1, 16)
        self._splits = splits
        self.splits = describe_splits(splits, both)

    def require(self, *names: str) -> None:
        """Raise DataError unless some splits have images, with pixels that have a class."""
        for name in names:
            if not self.splits[name]["images"]:
                raise DataError(
                    f"{self._pairs.location}: the {name} split has no image: give more images, "
                    "or other shares (--validation-share, --test-share)."
                )
            if not any(self.pixel_shares(name).values()):
                raise DataError(
                    f"{self._pairs.location}: all pixels of the {name} split are ignored "
                    f"({self.classes.ignored[0]}): give images with classes, or another --ignore."
                )

    def _require_two_classes(self) -> None:
        """Raise DataError unless there is something to tell apart in the training images."""
        there = [name for name, share in self.pixel_shares("supernet").items() if share]
        if len(there) < 2:
            raise DataError(
                f"{self._pairs.location}: the masks to train on hold one class, {there[0]}, and "
                f"{self.ignored_share('supernet'):.0%} of their pixels are ignored (number "
                f"{self.classes.ignored[0]}): give masks of two or more, or another --ignore."
            )

    def rows(self, *names: str) -> NDArray[np.int64]:
        """Return the numbers of the images of some splits.

        Raises:
            PermissionError: if a split may not be read.
        """
        for name in names:
            if name not in self.access.allowed:
                raise PermissionError(f"this stage may read {self.access.allowed}, not {name!r}")
        return self._rows(names)

    def _rows(self, names: Sequence[str]) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(self._splits, [SPLITS.index(name) for name in names]))

    def _counted(self, names: Sequence[str]) -> Counter[int]:
        """Count the pixels of each number in the masks of some splits."""
        counted: Counter[int] = Counter()
        for row in self._rows(names):
            counted.update(self._images[row].counts)
        return counted

    def name(self, row: int) -> str:
        """Return the name of an image."""
        return self._images[row].name

    def size(self, row: int) -> tuple[int, int]:
        """Return (height, width) of an image."""
        return self._images[row].size

    def image(self, row: int) -> NDArray[np.uint8]:
        """Decode an image at its own size, `[H, W, C]`; thread-safe.

        Raises:
            DataError: if it cannot be decoded; the sentence names the file.
        """
        one = self._images[row]
        item = self._pairs.images.read(*self._pairs.places[one.number][0])
        if item.content is None:
            raise DataError(f"{one.name}: cannot be read any more ({item.problem}).")
        try:
            return decode(item.content, size=one.size, in_channels=self._channels, white=self.white)
        except DataError as error:
            raise DataError(
                f"{one.name}: the image cannot be decoded ({error}): mend it or remove it."
            ) from None

    def mask(self, row: int) -> NDArray[np.int16]:
        """Decode a mask: class indices `[H, W]`, `IGNORED` where there is none; thread-safe."""
        one = self._images[row]
        return self.classes.indices(self._mask(one.number), one.name)

    def pixel_shares(self, *names: str) -> dict[str, float]:
        """Return the share of each class among the pixels of some splits that have one."""
        counted = self._counted(names)
        total = sum(counted[value] for value in self.classes.values)
        pairs = zip(self.classes.names, self.classes.values, strict=True)
        return {name: counted[value] / max(1, total) for name, value in pairs}

    def unknown(self, *names: str) -> dict[int, int]:
        """Count the pixels of each number that is neither a class nor ignored."""
        known = {*self.classes.values, *self.classes.ignored}
        counted = self._counted(names)
        return {value: counted[value] for value in sorted(counted.keys() - known)}

    def ignored_share(self, *names: str) -> float:
        """Return the share of the pixels of some splits that are ignored."""
        counted = self._counted(names)
        return sum(counted[value] for value in self.classes.ignored) / max(1, counted.total())

    def _statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and std of each channel: those given, else of some training images."""
        given = self.access.given
        if {"mean", "std"} <= given.keys():
            return given["mean"], given["std"]
        rows = self._rows(["supernet"])
        sums = np.zeros((2, self._channels))
        count = 0
        for row in rows[:: -(-len(rows) // STATISTICS_IMAGES)]:
            pixels = self.image(row).reshape(-1, self._channels) / 255
            sums += pixels.sum(axis=0), (pixels**2).sum(axis=0)
            count += len(pixels)
        mean = sums[0] / count
        std = np.sqrt(np.maximum(sums[1] / count - mean**2, 1e-6))
        return given.get("mean", mean.tolist()), given.get("std", std.tolist())

    def summary(self) -> dict[str, Any]:
        """Return the description of the images for manifests."""
        return {
            "splits": self.splits,
            "mean": self.mean,
            "std": self.std,
            "duplicates": len(self._images) - len({one.image for one in self._images}),
            "num_skipped": len(self._skipped),
            "skipped": self._skipped[:MAX_LISTED],
            "num_unlabelled": self._unlabelled,
        }


def _numbers_of(mask: Item) -> NDArray[np.int32]:
    """Decode a mask.

    Raises:
        DataError: if it cannot be decoded; the sentence names the file.
    """
    if mask.content is None:
        raise DataError(f"{mask.name}: the mask cannot be read ({mask.problem}).")
    try:
        return decode_mask(mask.content)
    except DataError as error:
        raise DataError(f"{mask.name}: the mask cannot be used ({error}).") from None
