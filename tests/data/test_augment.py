"""Crops on the device do what Pillow does, for each image of a batch by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from masktas.data.augment import ASPECT, center_boxes, crop, normalize, random_boxes


def random_images(batch: int, side: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (batch, side, side, channels), dtype=np.uint8))


def channels_first(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float()


def as_tensor(boxes) -> torch.Tensor:
    return torch.as_tensor(np.asarray(boxes), dtype=torch.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 7, 32])
def test_full_box_at_the_same_size_changes_nothing(side, channels):
    images = random_images(4, side, channels)
    cut = crop(images, as_tensor([[0, 0, side, side]] * 4), None, side)
    assert cut.dtype == torch.float32
    assert torch.equal(cut, channels_first(images))


def test_box_on_whole_pixels_at_the_same_size_is_a_slice():
    images = random_images(2, 20)
    cut = crop(images, as_tensor([[3, 5, 8, 8], [12, 0, 8, 8]]), None, 8)
    assert torch.equal(cut[0], channels_first(images)[0, :, 3:11, 5:13])
    assert torch.equal(cut[1], channels_first(images)[1, :, 12:20, 0:8])


@pytest.mark.parametrize(
    ("side", "size", "scale"),
    [
        (37, 32, (0.05, 1.0)),
        (64, 16, (0.2, 1.0)),
        (20, 48, (0.05, 1.0)),
        (32, 32, (0.9, 1.0)),
        (96, 24, (1.0, 1.0)),
        (40, 64, (0.01, 0.05)),
    ],
    ids=["both ways", "down", "up", "same", "whole", "tiny boxes"],
)
def test_crops_agree_with_pillow(side, size, scale):
    images = random_images(24, side)
    boxes = random_boxes(np.random.default_rng(side), 24, side, scale)
    cut = crop(images, as_tensor(boxes), None, size).numpy()
    for image, (top, left, height, width), mine in zip(images, boxes, cut, strict=True):
        box = (left, top, left + width, top + height)
        pillow = Image.fromarray(image.numpy()).resize(
            (size, size), Image.Resampling.BILINEAR, box=box
        )
        difference = np.abs(mine - np.asarray(pillow).transpose(2, 0, 1))
        assert difference.mean() < 1
        assert difference.max() < 2


def test_rows_are_rows_and_columns_are_columns():
    image = torch.zeros(1, 16, 16, 1, dtype=torch.uint8)
    image[0, :4, 8:] = 200  # above, on the right
    cut = crop(image, as_tensor([[0, 0, 4, 16]]), None, 8)[0, 0]
    assert cut.shape == (8, 8)
    assert (cut[:3, :3] == 0).all()
    torch.testing.assert_close(cut[:3, 5:], torch.full((3, 3), 200.0))


def test_grey_value_is_kept_wherever_the_box_lies():
    images = torch.full((50, 24, 24, 1), 77, dtype=torch.uint8)
    boxes = random_boxes(np.random.default_rng(0), 50, 24, (0.05, 1.0))
    cut = crop(images, as_tensor(boxes), None, 16)
    torch.testing.assert_close(cut, torch.full((50, 1, 16, 16), 77.0))


def test_flip_mirrors_exactly_and_only_where_it_is_asked_for():
    images = random_images(16, 24)
    boxes = as_tensor(random_boxes(np.random.default_rng(0), 16, 24, (0.2, 1.0)))
    flips = torch.arange(16) % 3 == 0
    plain = crop(images, boxes, None, 16)
    flipped = crop(images, boxes, flips, 16)
    assert torch.equal(flipped[flips], plain[flips].flip(3))
    assert torch.equal(flipped[~flips], plain[~flips])
    assert not torch.equal(flipped[flips], plain[flips])


def test_every_image_of_a_batch_is_cut_by_its_own_box():
    one = random_images(1, 32)
    images = one.expand(8, -1, -1, -1)
    boxes = random_boxes(np.random.default_rng(0), 8, 32, (0.2, 1.0))
    assert len(np.unique(boxes, axis=0)) == 8
    cut = crop(images, as_tensor(boxes), None, 16)
    for number in range(8):
        alone = crop(one, as_tensor(boxes[number : number + 1]), None, 16)
        torch.testing.assert_close(cut[number], alone[0])
        assert all(not torch.allclose(cut[number], cut[other]) for other in range(number))


def test_pixels_stay_in_their_range():
    images = random_images(8, 16)
    boxes = random_boxes(np.random.default_rng(0), 8, 16, (0.01, 1.0))
    cut = crop(images, as_tensor(boxes), None, 40)
    assert cut.min() >= 0
    assert cut.max() <= 255.001


# Boxes


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    side=st.integers(8, 300),
    shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
)
def test_boxes_lie_inside_and_keep_area_and_aspect(seed, side, shares):
    least, most = shares
    boxes = random_boxes(np.random.default_rng(seed), 64, side, (least, most))
    assert boxes.shape == (64, 4)
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= side + 1e-9).all()
    assert (left + width <= side + 1e-9).all()
    share = height * width / side**2
    assert (share <= most + 1e-9).all()
    assert (share >= min(least, ASPECT[0]) - 1e-9).all()  # a long box of a large area is clipped
    assert (width / height >= ASPECT[0] - 1e-9).all()
    assert (width / height <= ASPECT[1] + 1e-9).all()


def test_boxes_use_the_whole_range():
    top, left, height, width = random_boxes(np.random.default_rng(0), 4000, 100, (0.2, 1.0)).T
    share = height * width / 100**2
    assert share.min() < 0.22
    assert share.max() > 0.97
    assert np.log(width / height).mean() == pytest.approx(0, abs=0.02)  # wide as often as tall
    assert (width / height).min() < 0.77
    assert (width / height).max() > 1.3
    for start, length in ((top, height), (left, width)):
        place = (start / (100 - length).clip(1e-9))[length < 99]
        assert place.mean() == pytest.approx(0.5, abs=0.03)
        assert place.min() < 0.02
        assert place.max() > 0.98


def test_boxes_hang_on_the_generator_alone():
    first = random_boxes(np.random.default_rng(5), 8, 32, (0.2, 1.0))
    again = random_boxes(np.random.default_rng(5), 8, 32, (0.2, 1.0))
    other = random_boxes(np.random.default_rng(6), 8, 32, (0.2, 1.0))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_center_boxes_are_the_middle_pixels_of_every_image():
    np.testing.assert_array_equal(center_boxes(3, 32, 28), [[2, 2, 28, 28]] * 3)
    np.testing.assert_array_equal(center_boxes(1, 28, 28), [[0, 0, 28, 28]])


@pytest.mark.parametrize(("side", "size"), [(32, 28), (37, 32), (147, 128), (19, 16), (9, 9)])
def test_centre_crop_blurs_nothing(side, size):
    images = random_images(2, side)
    cut = crop(images, as_tensor(center_boxes(2, side, size)), None, size)
    edges = {(side - size) // 2, (side - size + 1) // 2}
    pixels = channels_first(images)
    slices = [pixels[:, :, edge : edge + size, edge : edge + size] for edge in edges]
    assert any(torch.equal(cut, middle) for middle in slices)


# Normalising


def test_normalize_gives_mean_zero_and_deviation_one():
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal([100, 150, 50], [20, 40, 10], (8, 16, 16, 3))).float()
    images = pixels.permute(0, 3, 1, 2)
    std, mean = torch.std_mean(images / 255, dim=(0, 2, 3))
    result = normalize(images, mean, std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(result.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_normalize_takes_each_channel_by_its_own_numbers():
    images = torch.tensor([0.0, 127.5, 255.0])[None, :, None, None].expand(1, 3, 2, 2)
    result = normalize(images, torch.tensor([0.0, 0.5, 0.0]), torch.tensor([1.0, 0.25, 0.5]))
    torch.testing.assert_close(result[0, :, 0, 0], torch.tensor([0.0, 0.0, 2.0]))
