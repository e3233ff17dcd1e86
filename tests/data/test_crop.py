"""Crops on the device do what Pillow does, for each image of a batch by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from examples import examples
from masktas.data import augment, resample
from masktas.data.augment import center_boxes, crop, normalize, random_boxes, random_colors, recolor
from pixels import channels_first, random_images

WAYS = ["C", "torch", "dense"]


@pytest.fixture(params=WAYS)
def cut(request, monkeypatch):
    """The three ways of `crop`: whatever holds must hold for each."""
    if request.param == "C":
        if resample.native() is None:
            pytest.skip("needs a C compiler")
        return crop
    if request.param == "torch":
        monkeypatch.setattr(augment, "native", lambda: None)
        return crop

    def dense(images, boxes, flips, size):
        flips = None if flips is None else torch.as_tensor(flips)
        return resample.dense(images, torch.as_tensor(boxes), flips, size)

    return dense


def pillow(image: torch.Tensor, box, size: tuple[int, int]) -> np.ndarray:
    """Cut and resize in Pillow, channel by channel, `[C, h, w]`."""
    top, left, height, width = box.tolist()
    box = (left, top, left + width, top + height)
    resized = [
        Image.fromarray(plane).crop(box).resize(size[::-1], Image.Resampling.BILINEAR)
        for plane in np.ascontiguousarray(image.permute(2, 0, 1).numpy())
    ]
    return np.stack(resized).astype(float)


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (32, 20), (16, 33)])
def test_full_box_at_the_same_size_changes_nothing(cut, size, channels):
    images = random_images(4, *size, channels)
    result = cut(images, np.array([[0, 0, *size]] * 4), None, size)
    assert result.dtype == torch.float32
    assert torch.equal(result, channels_first(images))


def test_box_at_the_same_size_is_a_slice(cut):
    images = random_images(2, 20, 22)
    result = cut(images, np.array([[3, 5, 8, 9], [12, 0, 8, 9]]), None, (8, 9))
    assert torch.equal(result[0], channels_first(images)[0, :, 3:11, 5:14])
    assert torch.equal(result[1], channels_first(images)[1, :, 12:20, 0:9])


@pytest.mark.parametrize(
    ("stored", "size", "scale", "channels"),
    [
        ((37, 37), (32, 32), (0.05, 1.0), 3),
        ((64, 64), (16, 16), (0.2, 1.0), 3),
        ((20, 20), (48, 48), (0.05, 1.0), 1),
        ((32, 32), (32, 32), (0.9, 1.0), 4),
        ((96, 96), (24, 24), (1.0, 1.0), 3),
        ((40, 40), (64, 64), (0.01, 0.05), 5),
        ((60, 30), (32, 16), (0.2, 1.0), 3),
        ((25, 70), (19, 45), (0.05, 1.0), 2),
        ((400, 9), (3, 40), (0.3, 1.0), 1),
        ((256, 256), (224, 224), (0.2, 1.0), 3),
    ],
    ids=[
        "both ways", "down", "up", "same", "whole", "tiny boxes", "tall", "wide", "extreme",
        "training",
    ],
)  # fmt: skip
def test_crops_agree_with_pillow(cut, stored, size, scale, channels):
    images = random_images(12, *stored, channels)
    rng = np.random.default_rng(1)
    boxes = random_boxes(rng, 12, stored, scale)
    flips = rng.uniform(size=12) < 0.5
    result = cut(images, boxes, flips, size).numpy()
    assert result.shape == (12, channels, *size)
    for image, box, flip, mine in zip(images, boxes, flips, result, strict=True):
        expected = pillow(image, box, size)
        difference = np.abs(mine - (expected[:, :, ::-1] if flip else expected))
        assert difference.mean() < 0.5  # Pillow rounds to bytes, twice
        assert difference.max() < 1.01


@examples(60)
@given(
    seed=st.integers(0, 2**32),
    stored=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.integers(1, 5),
)
def test_c_and_products_agree(seed, stored, size, channels):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (3, *stored, channels), dtype=np.uint8))
    boxes = random_boxes(rng, 3, stored, (0.01, 1.0))
    flips = rng.uniform(size=3) < 0.5
    expected = resample.dense(images, torch.from_numpy(boxes), torch.from_numpy(flips), size)
    torch.testing.assert_close(crop(images, boxes, flips, size), expected, atol=0.02, rtol=0)


def test_rows_are_rows_and_columns_are_columns(cut):
    image = torch.zeros(1, 16, 16, 1, dtype=torch.uint8)
    image[0, :4, 8:] = 200  # above, on the right
    result = cut(image, np.array([[0, 0, 4, 16]]), None, (8, 8))[0, 0]
    assert result.shape == (8, 8)
    assert (result[:3, :3] == 0).all()
    torch.testing.assert_close(result[:3, 5:], torch.full((3, 3), 200.0))


def test_what_lies_outside_of_the_box_is_not_seen(cut):
    image = torch.full((1, 40, 40, 1), 255, dtype=torch.uint8)
    image[0, 8:24, 4:36] = 10
    for size in ((5, 5), (16, 32), (50, 60)):
        result = cut(image, np.array([[8, 4, 16, 32]]), None, size)
        torch.testing.assert_close(result, torch.full_like(result, 10.0))


def test_grey_value_is_kept_wherever_the_box_lies(cut):
    images = torch.full((50, 24, 30, 1), 77, dtype=torch.uint8)
    boxes = random_boxes(np.random.default_rng(0), 50, (24, 30), (0.05, 1.0))
    result = cut(images, boxes, None, (16, 21))
    torch.testing.assert_close(result, torch.full((50, 1, 16, 21), 77.0))


@pytest.mark.parametrize(("stored", "size"), [((24, 24), (16, 16)), ((90, 70), (17, 23))])
def test_flip_mirrors_exactly_and_only_where_it_is_asked_for(cut, stored, size):
    images = random_images(16, *stored)
    boxes = random_boxes(np.random.default_rng(0), 16, stored, (0.2, 1.0))
    flips = np.arange(16) % 3 == 0
    plain = cut(images, boxes, None, size)
    flipped = cut(images, boxes, flips, size)
    assert torch.equal(flipped[flips], plain[flips].flip(3))
    assert torch.equal(flipped[~flips], plain[~flips])
    assert not torch.equal(flipped[flips], plain[flips])
    mirrored = boxes.copy()  # the box of the mirrored image that shows the same
    mirrored[:, 1] = stored[1] - boxes[:, 1] - boxes[:, 3]
    twice = cut(images.flip(2), mirrored, np.ones(16, bool), size)
    torch.testing.assert_close(twice, plain, atol=1e-3, rtol=0)


def test_every_image_of_a_batch_is_cut_by_its_own_box(cut):
    one = random_images(1, 32, 32)
    images = one.expand(8, -1, -1, -1)
    boxes = random_boxes(np.random.default_rng(0), 8, (32, 32), (0.2, 1.0))
    assert len(np.unique(boxes, axis=0)) == 8
    result = cut(images, boxes, None, (16, 16))
    for number in range(8):
        alone = cut(one, boxes[number : number + 1], None, (16, 16))
        torch.testing.assert_close(result[number], alone[0])
        assert all(not torch.allclose(result[number], result[n]) for n in range(number))


def test_pixels_stay_in_their_range(cut):
    images = random_images(8, 16, 16)
    boxes = random_boxes(np.random.default_rng(0), 8, (16, 16), (0.01, 1.0))
    result = cut(images, boxes, None, (40, 40))
    assert result.min() >= 0
    assert result.max() <= 255.001


@pytest.mark.parametrize("way", WAYS[:2])
def test_result_hangs_neither_on_the_split_of_a_batch_nor_on_threads(way, monkeypatch):
    if way == "torch":
        monkeypatch.setattr(augment, "native", lambda: None)
    images = random_images(13, 40, 48)
    boxes = random_boxes(np.random.default_rng(0), 13, (40, 48), (0.1, 1.0))
    flips = np.arange(13) % 2 == 0
    whole = crop(images, boxes, flips, (32, 32))
    parts = [
        crop(images[part], boxes[part], flips[part], (32, 32))
        for part in (slice(0, 1), slice(1, 8), slice(8, 13))
    ]
    assert torch.equal(torch.cat(parts), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert torch.equal(crop(images, boxes, flips, (32, 32)), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("way", WAYS[:2])
def test_images_are_read_from_a_file_and_normalized(way, monkeypatch, tmp_path):
    if way == "torch":
        monkeypatch.setattr(augment, "native", lambda: None)
    np.save(tmp_path / "images.npy", random_images(9, 20, 24).numpy())
    stored = np.load(tmp_path / "images.npy", mmap_mode="r")
    boxes = random_boxes(np.random.default_rng(0), 9, (20, 24), (0.2, 1.0))
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    result = crop(stored, boxes, None, (16, 16), mean=mean, std=std)
    copies = torch.from_numpy(np.array(stored))
    expected = normalize(crop(copies, boxes, None, (16, 16)), mean, std)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(resample.native() is None, reason="needs a C compiler")
def test_memory_is_lent_again_only_when_no_tensor_lies_in_it():
    images, boxes = random_images(4, 9, 9), center_boxes(4, (9, 9), (8, 8))
    kept = [crop(images, boxes, None, (8, 8)) for _ in range(5)]
    assert len({tensor.data_ptr() for tensor in kept}) == 5
    view, place = kept[-1][1:3, 0], kept[-1].data_ptr()
    before = view.clone()
    kept.clear()
    others = [crop(torch.zeros_like(images), boxes, None, (8, 8)) for _ in range(3)]
    assert place not in {tensor.data_ptr() for tensor in others}  # the view holds it
    assert torch.equal(view, before)
    alone = crop(images, boxes, None, (50, 30))  # no other block is so large
    place = alone.data_ptr()
    del alone
    assert crop(images, boxes, None, (49, 30)).data_ptr() == place


@pytest.mark.parametrize(
    "boxes",
    [
        [[-1, 0, 4, 4]],
        [[0, 5, 4, 4]],
        [[0, 0, 9, 4]],
        [[0, 0, 0, 4]],
        [[0, 0, 4]],
        [[0, 0, 4, 4]] * 2,
        [],
    ],
)
def test_nothing_outside_of_the_images_is_read(boxes):
    with pytest.raises(ValueError, match="box"):
        crop(random_images(1, 8, 8), np.array(boxes), None, (4, 4))


def test_only_bytes_are_cut():
    with pytest.raises(ValueError, match="bytes"):
        crop(torch.zeros(1, 8, 8, 3), np.array([[0, 0, 8, 8]]), None, (4, 4))


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(3, 5), (32, 33), (40, 70)])
def test_colours_may_be_changed_in_the_same_pass(way, channels, size, monkeypatch):
    if way == "torch":
        monkeypatch.setattr(augment, "native", lambda: None)
    images = random_images(6, 30, 40, channels)
    rng = np.random.default_rng(0)
    boxes, flips = random_boxes(rng, 6, (30, 40), (0.2, 1.0)), np.arange(6) % 2 == 0
    colors = random_colors(rng, 6, 0.8)
    mean, std = torch.linspace(0.1, 0.5, channels), torch.linspace(0.2, 0.4, channels)
    expected = recolor(crop(images, boxes, flips, size), torch.from_numpy(colors))
    result = crop(images, boxes, flips, size, colors=colors)
    torch.testing.assert_close(result, expected, atol=1e-2, rtol=0)
    result = crop(images, boxes, flips, size, colors=colors, mean=mean, std=std)
    torch.testing.assert_close(result, normalize(expected, mean, std), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("side", "size"), [(32, 28), (37, 32), (147, 128), (19, 16), (9, 9)])
def test_centre_crop_blurs_nothing(cut, side, size):
    images = random_images(2, side, side + 3)
    result = cut(images, center_boxes(2, (side, side + 3), (size, size)), None, (size, size))
    top, left = (side - size) // 2, (side + 3 - size) // 2
    middle = channels_first(images)[:, :, top : top + size, left : left + size]
    assert torch.equal(result, middle)
