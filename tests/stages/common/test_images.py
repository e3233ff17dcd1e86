"""Labels of a source: as many classes as labels can mean."""

from __future__ import annotations

import pytest

from masktas.errors import LabelError
from masktas.stages.common.images import read_labels


class Labelled:
    """A source of one shard, of which only the labels are asked for."""

    location = "photos.csv"
    num_shards = 1

    def __init__(self, images: int, classes: int) -> None:
        self.values = [number % classes for number in range(images)]

    def labels(self, shard: int) -> list[int]:
        assert shard == 0
        return self.values


@pytest.mark.parametrize(
    ("images", "classes"),
    [
        (20, 20),
        (30, 16),
        (40, 21),
        (100, 90),
        (13_233, 5_749),  # Labeled Faces in the Wild: most people are there once
        (400_000, 200_000),
    ],
)
def test_few_images_of_each_class_are_labels(images: int, classes: int) -> None:
    (indices,), names = read_labels(Labelled(images, classes))
    assert len(indices) == images
    assert len(names) == len(set(indices)) == classes


@pytest.mark.parametrize(("images", "classes"), [(34, 34), (100, 91), (1_000_000, 1_000_000)])
def test_numbers_of_the_images_are_not_labels(images: int, classes: int) -> None:
    with pytest.raises(LabelError, match=f"{classes:,} classes for {images:,} images") as caught:
        read_labels(Labelled(images, classes))
    assert "--label-column" in str(caught.value)
    assert "\n" not in str(caught.value)
