"""The demo's images come with the installation and are the same everywhere."""

from __future__ import annotations

import io
import socket

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from masktas.data.decode.image import decode
from masktas.data.demo import write_demo_images
from masktas.data.sources import class_index, open_source


def refuse(*_):
    raise AssertionError("the demo's images are not to be downloaded")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "digits.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        write_demo_images(path)
    return path


@pytest.fixture(scope="module")
def rows(demo):
    return parquet.read_table(demo).to_pylist()


def test_images_are_5000_grey_digits_of_28_pixels(rows):
    assert len(rows) == 5000
    images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
    assert {(image.size, image.mode, image.format) for image in images} == {((28, 28), "L", "PNG")}
    assert len({row["image"]["path"] for row in rows}) == 5000


def test_labels_are_the_ten_digits_equally_often_and_mixed(rows):
    labels = np.array([row["label"] for row in rows])
    assert np.bincount(labels).tolist() == [500] * 10
    assert len(set(labels[:100].tolist())) == 10


def test_labels_belong_to_their_images(rows):
    labels = np.array([row["label"] for row in rows])
    contents = [row["image"]["bytes"] for row in rows]
    pixels = np.stack([decode(content, size=(28, 28), in_channels=1) for content in contents])
    flat = pixels.reshape(5000, -1).astype(float)
    means = np.stack([flat[:2500][labels[:2500] == digit].mean(axis=0) for digit in range(10)])
    nearest = ((flat[2500:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == labels[2500:]).mean() > 0.7  # nearest mean: 0.8 on MNIST, chance 0.1


def test_file_is_a_source_with_labels(demo):
    source = open_source(demo)
    assert sum(source.sizes()) == 5000
    items = [item for shard in range(source.num_shards) for item in source.stream(shard)]
    assert not any(item.is_test for item in items)
    labels, names = class_index(
        [value for shard in range(source.num_shards) for value in source.labels(shard)]
    )
    assert names == [str(digit) for digit in range(10)]
    assert len(labels) == 5000


@pytest.mark.slow
def test_writing_again_gives_the_same_bytes_and_leaves_nothing_else(demo):
    again = demo.parent / "new" / "again.parquet"
    write_demo_images(again)
    assert again.read_bytes() == demo.read_bytes()
    assert [path.name for path in again.parent.iterdir()] == ["again.parquet"]
