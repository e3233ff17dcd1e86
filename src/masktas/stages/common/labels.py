"""The labels of images, for the stages that need them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from masktas.data.sources import Source, class_index
from masktas.data.store.image_store import Images


def read_labels(source: Source) -> tuple[list[list[int]], list[str]]:
    """Return the class index of every image, shard by shard, and the classes' names."""
    values = [source.labels(number) for number in range(source.num_shards)]
    indices, classes = class_index(list(itertools.chain.from_iterable(values)))
    numbers = iter(indices)
    return [list(itertools.islice(numbers, len(shard))) for shard in values], classes


def labels_of(labels: list[list[int]], images: Images) -> Tensor:
    """Return the class index of each image of a split, `[n]`."""
    return torch.tensor([labels[shard][index] for shard, index in images.places])
