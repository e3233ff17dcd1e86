"""Random erasing: timm's boxes by distribution, noise by image."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.random_erasing import RandomErasing

from masktas.data.erasing import Erasures, erase, random_erasures


def boxes_of_timm(count: int, size: tuple[int, int], probability: float) -> np.ndarray:
    random.seed(0)
    erasing = RandomErasing(probability, mode="const", device="cpu")
    boxes = []
    for _ in range(count):
        image = torch.ones(1, *size)
        rows, columns = torch.where(erasing(image)[0] == 0)
        if not len(rows):
            boxes.append([0, 0, 0, 0])
            continue
        top, left = int(rows[0]), int(columns[0])
        boxes.append([top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1])
    return np.array(boxes)


@pytest.mark.parametrize(("size", "probability"), [((32, 20), 0.25), ((9, 30), 1.0)])
def test_boxes_are_distributed_as_timms(size, probability):
    count = 4000
    expected = boxes_of_timm(count, size, probability)
    found = random_erasures(np.random.default_rng(0), count, size, probability).boxes
    erased = [(boxes[:, 2:].prod(axis=1) > 0) for boxes in (found, expected)]
    table = [[chosen.sum(), count - chosen.sum()] for chosen in erased]
    if probability < 1:
        assert stats.chi2_contingency(table).pvalue > 0.01
    else:
        assert erased[0].mean() == pytest.approx(erased[1].mean(), abs=0.005)
    mine, timms = (boxes[chosen] for boxes, chosen in zip((found, expected), erased, strict=True))
    for column in range(4):
        assert stats.ks_2samp(mine[:, column], timms[:, column]).pvalue > 0.01
    areas = [boxes[:, 2:].prod(axis=1) for boxes in (mine, timms)]
    assert stats.ks_2samp(*areas).pvalue > 0.01
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= size).all()


def test_noise_is_standard_normal_in_the_box_and_nothing_changes_outside():
    images = torch.full((3, 3, 40, 50), 7.0)
    boxes = np.array([[5, 10, 30, 35], [0, 0, 0, 0], [1, 2, 30, 35]])
    erase(images, Erasures(boxes, np.arange(3)))
    noise = images[0, :, 5:35, 10:45]
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    assert (images[0] == 7).sum() == 3 * (40 * 50 - 30 * 35)
    assert (images[1] == 7).all()
    assert not torch.equal(noise, images[2, :, 1:31, 2:37])


def test_noise_of_an_image_depends_on_its_own_draw():
    erasures = random_erasures(np.random.default_rng(0), 6, (16, 16), 1.0)
    assert len(set(erasures.seeds.tolist())) == 6
    whole, part = torch.zeros(6, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    erase(whole, erasures)
    erase(part, erasures.rows(slice(3, 5)))
    assert torch.equal(whole[3:5], part)


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (2, 2)])
def test_tiny_images_are_left_whole_or_erased_inside(size):
    erasures = random_erasures(np.random.default_rng(0), 200, size, 1.0)
    assert (erasures.boxes[:, :2] + erasures.boxes[:, 2:] <= size).all()
    images = torch.zeros(200, 1, *size)
    erase(images, erasures)
    assert (images.abs().amax(dim=(1, 2, 3)) > 0).any() == (size == (2, 2))
