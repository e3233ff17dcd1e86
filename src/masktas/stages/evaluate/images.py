"""The labelled images of an evaluation: a split of a run, or other images.

Both are read in batches of decoded images of the size that the network's `input.json` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from masktas.data.decode.pool import DecodeSpec
from masktas.data.reading import ReadImage, nothing_read, read_images, stacked
from masktas.data.sources import Source
from masktas.data.splits import describe_splits
from masktas.data.store.image_store import MAX_LISTED, ImageStore
from masktas.errors import DataError, UndecodableImage
from masktas.formats import format_size

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """Decoded images with labels.

    Attributes:
        pixels: `[B, H, W, C]`.
        labels: name of the class of each.
        places: shard of the source and index in it of each.
        is_test: whether the source declares each as a test image.
        digests: of the contents, `[B, 16]`.
    """

    pixels: NDArray[np.uint8]
    labels: list[str]
    places: list[Place]
    is_test: list[bool]
    digests: NDArray[np.uint8]


class LabelledImages(Protocol):
    """Labelled images that are read once, in order.

    Attributes:
        location: where they are.
    """

    location: str

    @property
    def total(self) -> int | None:
        """Number of images, where known before reading."""
        ...

    def batches(self, size: int) -> Iterator[LabelledBatch]:
        """Yield the images."""
        ...

    def name(self, place: Place) -> str:
        """Return the name of an image."""
        ...

    def summary(self) -> dict[str, Any]:
        """Describe the images that were read, for manifests."""
        ...


class RunImages:
    """`LabelledImages` of one split of a run, from its store of decoded images.

    Args:
        store: opened for the split.
        split: its name.
        source: of the images, for their names.
        labels: class index of every image, shard by shard.
        classes: names of the classes.
    """

    def __init__(
        self,
        store: ImageStore,
        split: str,
        source: Source,
        labels: list[list[int]],
        classes: list[str],
    ) -> None:
        self.location = source.location
        self._store, self._source, self._labels, self._classes = store, source, labels, classes
        self._images = store.images(split)

    @property
    def total(self) -> int:
        """Number of images of the split."""
        return len(self._images)

    def batches(self, size: int) -> Iterator[LabelledBatch]:
        """Yield the images of the split."""
        for start in range(0, self.total, size):
            numbers = np.arange(start, min(start + size, self.total))
            places = [(int(shard), int(index)) for shard, index in self._images.places[numbers]]
            names = [self._classes[self._labels[shard][index]] for shard, index in places]
            yield LabelledBatch(
                self._images.read(numbers),
                names,
                places,
                [False] * len(places),
                np.zeros((len(places), 16), dtype=np.uint8),
            )

    def name(self, place: Place) -> str:
        """Return the name of an image, or its place in a source that is read in order only."""
        try:
            return self._source.read(*place).name
        except DataError:
            return f"shard {place[0]}, image {place[1]}"

    def summary(self) -> dict[str, Any]:
        """Describe the images of the run."""
        return self._store.summary()


class GivenImages:
    """`LabelledImages` of a source that no run has divided: all, or those it declares as test.

    Args:
        source: the images, with labels.
        spec: how they are decoded.
        only_test: whether to leave out those that the source does not declare as test images.
        strict: raise UndecodableImage instead of leaving out an image that cannot be read.
    """

    def __init__(self, source: Source, spec: DecodeSpec, *, only_test: bool, strict: bool) -> None:
        self.location = source.location
        self.problems: list[dict[str, str]] = []
        self._source, self._spec, self._only_test, self._strict = source, spec, only_test, strict
        self._labels = [
            [str(label) for label in source.labels(shard)] for shard in range(source.num_shards)
        ]
        self._names: dict[Place, str] = {}
        self._digests: list[NDArray[np.uint8]] = []
        self.tried = 0

    @property
    def total(self) -> int | None:
        """Number of images of the source; None if it is not known how many are test images."""
        return None if self._only_test else sum(map(len, self._labels))

    def batches(self, size: int) -> Iterator[LabelledBatch]:
        """Yield the images that can be read."""
        waiting: list[ReadImage] = []
        for one in read_images(self._source, self._spec):
            self.tried += 1
            if one.decoded.pixels is None:
                if self._strict:
                    raise UndecodableImage(one.item.name, one.decoded.problem)
                self.problems.append({"name": one.item.name, "reason": one.decoded.problem})
            elif one.item.is_test or not self._only_test:
                waiting.append(one)
            if len(waiting) == size:
                yield self._batch(waiting)
                waiting = []
        if waiting:
            yield self._batch(waiting)
        if not self._digests:
            raise self._nothing()

    def _batch(self, images: list[ReadImage]) -> LabelledBatch:
        digests = np.stack(
            [np.frombuffer(bytes.fromhex(one.decoded.digest), dtype=np.uint8) for one in images]
        )
        self._digests.append(digests)
        self._names |= {one.place: one.item.name for one in images}
        return LabelledBatch(
            stacked(images),
            [self._labels[one.place[0]][one.place[1]] for one in images],
            [one.place for one in images],
            [one.item.is_test for one in images],
            digests,
        )

    def _nothing(self) -> DataError:
        if self._only_test and len(self.problems) < self.tried:
            return DataError(
                f"{self.location}: no image is in a test split of its own: leave out --split test "
                "to evaluate on all of them."
            )
        first = self.problems[0] if self.problems else {"name": "it", "reason": "empty"}
        return nothing_read(self._source, self.tried, first["name"], first["reason"])

    def name(self, place: Place) -> str:
        """Return the name of an image."""
        return self._names[place]

    @property
    def digests(self) -> NDArray[np.uint8]:
        """Digests of the contents of the images that were read, `[n, 16]`."""
        return np.concatenate(self._digests)

    def summary(self) -> dict[str, Any]:
        """Describe the images that were read, in one split."""
        digests = self.digests
        one = np.full(len(digests), 3, dtype=np.int8)
        duplicates = len(digests) - len(np.unique(digests, axis=0))
        return {
            "source": self.location,
            "size": format_size(self._spec.size),
            "in_channels": self._spec.in_channels,
            "tried": self.tried,
            "duplicates": duplicates,
            "splits": {"test": describe_splits(one, digests)["test"]},
            "num_skipped": len(self.problems),
            "skipped": self.problems[:MAX_LISTED],
        }
