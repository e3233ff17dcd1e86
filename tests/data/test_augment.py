"""Boxes, normalisation and colours: drawn for each image by itself, and what torchvision does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ks_2samp
from torchvision.transforms import ColorJitter, RandomResizedCrop

from examples import examples
from masktas.data.augment import (
    ASPECT,
    center_boxes,
    normalize,
    random_boxes,
    random_colors,
    recolor,
)
from pixels import channels_first, random_images

# --- boxes


@examples(100)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
)
def test_boxes_lie_inside_and_keep_area_and_aspect(seed, size, shares):
    least, most = shares
    boxes = random_boxes(np.random.default_rng(seed), 64, size, (least, most))
    assert boxes.shape == (64, 4)
    assert boxes.dtype == np.int64
    starts, lengths = boxes[:, :2], boxes[:, 2:]
    assert (starts >= 0).all()
    assert (lengths >= 1).all()
    assert (starts + lengths <= size).all()
    low, high = ((lengths + way) / size for way in (-0.5, 0.5))  # whole pixels: what was drawn
    assert ((low.prod(1) <= most) | (lengths == size).all(1)).all()  # or it never fitted
    assert (high.prod(1) >= least).all()
    assert (high[:, 1] / low[:, 0].clip(1e-9) >= ASPECT[0]).all()
    assert (low[:, 1] / high[:, 0] <= ASPECT[1]).all()


@pytest.mark.parametrize("size", [(100, 100), (200, 50)])
def test_boxes_use_the_whole_range(size):
    boxes = random_boxes(np.random.default_rng(0), 4000, size, (0.2, 1.0))
    shares = boxes[:, 2:] / size
    area, aspect = shares.prod(1), shares[:, 1] / shares[:, 0]
    assert area.min() < 0.22
    assert area.max() > 0.97
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.02)  # wide as often as tall
    assert aspect.min() < 0.77
    assert aspect.max() > 1.3
    for start, length, whole in zip(boxes.T[:2], boxes.T[2:], size, strict=True):
        place = (start / (whole - length).clip(1))[length < 0.9 * whole]
        assert place.mean() == pytest.approx(0.5, abs=0.03)
        assert place.min() == 0
        assert place.max() == 1


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.4, 1.0), (0.7, 1.0), (1.0, 1.0)])
def test_boxes_are_distributed_as_torchvisions(scale):
    size, count = (90, 90), 4000
    mine = random_boxes(np.random.default_rng(1), count, size, scale)
    torch.manual_seed(2)
    image = torch.empty(1, *size)
    given = [RandomResizedCrop.get_params(image, list(scale), list(ASPECT)) for _ in range(count)]
    for own, its in zip(mine.T, np.array(given).T, strict=True):
        assert ks_2samp(own, its).pvalue > 0.01


def test_a_crop_of_the_whole_area_is_the_whole_image():
    boxes = random_boxes(np.random.default_rng(0), 500, (32, 40), (1.0, 1.0))
    assert (boxes == [0, 0, 32, 40]).all(1).mean() > 0.9  # others have an aspect that rounds to it


def test_boxes_hang_on_the_generator_alone():
    first = random_boxes(np.random.default_rng(5), 8, (32, 40), (0.2, 1.0))
    again = random_boxes(np.random.default_rng(5), 8, (32, 40), (0.2, 1.0))
    other = random_boxes(np.random.default_rng(6), 8, (32, 40), (0.2, 1.0))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_center_boxes_are_the_middle_pixels_of_every_image():
    np.testing.assert_array_equal(center_boxes(3, (32, 40), (28, 30)), [[2, 5, 28, 30]] * 3)
    np.testing.assert_array_equal(center_boxes(1, (28, 28), (28, 28)), [[0, 0, 28, 28]])


# --- normalisation


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


# --- colours


def test_colours_are_torchvisions_for_each_image_by_itself(monkeypatch):
    images = channels_first(random_images(40, 9, 11))
    colors = random_colors(np.random.default_rng(0), 40, 0.6)
    assert len({tuple(order) for order in colors[:, 1].tolist()}) == 6
    result = recolor(images, torch.from_numpy(colors))
    assert result.dtype == torch.float32
    jitter = ColorJitter(0.6, 0.6, 0.6)
    for image, mine, (factors, order) in zip(images, result, colors.tolist(), strict=True):
        drawn = (torch.tensor([int(kind) for kind in order]), *factors, None)
        monkeypatch.setattr(jitter, "get_params", lambda *_, drawn=drawn: drawn)
        torch.testing.assert_close(mine, jitter(image / 255) * 255, atol=0.1, rtol=0)


def test_colours_are_drawn_as_torchvisions():
    torch.manual_seed(0)
    jitter = ColorJitter(0.4, 0.4, 0.4)
    theirs = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, None)
        for _ in range(3000)
    ]
    colors = random_colors(np.random.default_rng(0), 3000, 0.4)
    for kind in range(3):
        assert ks_2samp(colors[:, 0, kind], [one[1 + kind] for one in theirs]).pvalue > 0.01
    orders = Counter(tuple(int(kind) for kind in order) for order in colors[:, 1])
    expected = Counter(tuple(k for k in one[0].tolist() if k < 3) for one in theirs)
    assert set(orders) == set(expected)
    table = [[count[key] for key in expected] for count in (orders, expected)]
    assert chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9])
def test_factors_of_one_change_nothing(channels):
    images = channels_first(random_images(3, 8, 8, channels))
    colors = torch.from_numpy(random_colors(np.random.default_rng(0), 3, 0.0))
    torch.testing.assert_close(recolor(images, colors), images, atol=1e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_saturation_is_for_colours_alone(channels):
    images = channels_first(random_images(3, 8, 8, channels))
    changed = torch.tensor([[[1.3, 0.7, 0.1], [0, 2, 1]]] * 3)
    plain = torch.tensor([[[1.3, 0.7, 1.0], [0, 2, 1]]] * 3)
    assert torch.equal(recolor(images, changed), recolor(images, plain))
    assert not torch.equal(recolor(images, plain), images)


def test_colours_stay_in_their_range_and_hang_on_their_own_image():
    images = channels_first(random_images(4, 8, 8))
    colors = torch.from_numpy(random_colors(np.random.default_rng(3), 4, 1.0))
    result = recolor(images, colors)
    assert result.min() >= 0
    assert result.max() <= 255
    for number in range(4):
        alone = recolor(images[number : number + 1], colors[number : number + 1])
        torch.testing.assert_close(result[number], alone[0])


def test_colours_are_drawn_around_one_and_hang_on_the_generator_alone():
    first = random_colors(np.random.default_rng(0), 2000, 0.4)
    assert first.shape == (2000, 2, 3)
    assert first[:, 0].min() >= 0.6
    assert first[:, 0].max() <= 1.4
    np.testing.assert_allclose(first[:, 0].mean(0), 1, atol=0.02)
    np.testing.assert_array_equal(first, random_colors(np.random.default_rng(0), 2000, 0.4))
    np.testing.assert_array_equal(random_colors(np.random.default_rng(0), 5, 0.0)[:, 0], 1)
    assert random_colors(np.random.default_rng(0), 2000, 2.0).min() >= 0
