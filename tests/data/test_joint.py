"""Crops of images with masks, against pixels looked up one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from masktas.data.joint import JointAugment, JointBatches, JointDraws, nearest
from masktas.data.masks import IGNORED
from masktas.data.segmentation import SegmentationImages
from masktas.errors import DataError
from pairs import opened, write_pairs

MEAN, STD = torch.zeros(3), torch.full((3,), 1 / 255)  # pixels stay as they are


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> SegmentationImages:
    return opened(write_pairs(tmp_path_factory.mktemp("pairs")))


def draws(scale: float, place: tuple[float, float], *, flip: bool = False) -> JointDraws:
    return JointDraws(
        np.array([scale]), np.full((1, 10, 2), place), np.array([flip]), np.ones((1, 3), np.float32)
    )


@pytest.mark.parametrize("size", [(7, 9), (20, 31), (10, 12)])
@pytest.mark.parametrize("flipped", [False, True])
def test_masks_take_the_nearest_pixel(size: tuple[int, int], flipped: bool) -> None:
    mask = np.random.default_rng(0).integers(0, 5, (16, 24)).astype(np.int16)
    box = (3, 4, 10, 12)
    found = nearest(mask, box, size, flipped=flipped)
    for row in range(size[0]):
        for column in range(size[1]):
            y = 3 + int((row + 0.5) * 10 / size[0])
            x = 4 + int((column + 0.5) * 12 / size[1])
            at = size[1] - 1 - column if flipped else column
            assert found[row, at] == mask[y, x]


@pytest.mark.parametrize("flip", [False, True])
def test_image_and_mask_are_cut_alike(images: SegmentationImages, flip: bool) -> None:
    pixels, mask = images.image(0), images.mask(0)
    augment = JointAugment((16, 16), max_class_share=1.0)
    cut, target = augment.cut(pixels, mask, draws(1.0, (0.5, 0.99), flip=flip), 0, MEAN, STD)
    top, left = int(0.5 * 17), int(0.99 * 33)
    expected = pixels[top : top + 16, left : left + 16].transpose(2, 0, 1).copy()
    labels = mask[top : top + 16, left : left + 16]
    if flip:
        expected, labels = expected[:, :, ::-1].copy(), labels[:, ::-1]
    assert torch.equal(cut.round(), torch.from_numpy(expected).float())
    assert (target.numpy() == labels).all()


def test_beyond_the_image_all_is_ignored(images: SegmentationImages) -> None:
    augment = JointAugment((40, 40))
    cut, target = augment.cut(images.image(0), images.mask(0), draws(0.5, (0, 0)), 0, MEAN, STD)
    assert cut.shape == (3, 40, 40)
    assert (target[16:] == IGNORED).all()
    assert (target[:, 24:] == IGNORED).all()
    assert (cut[:, 16:] == 0).all()
    assert (cut[:, :16, :24] > 0).any()
    assert (target[2:16, :24] != IGNORED).all()


def test_short_side_comes_before_the_scale(images: SegmentationImages) -> None:
    both = [
        JointAugment((16, 16), short_side=side).cut(
            images.image(0), images.mask(0), draws(scale, (0.3, 0.3)), 0, MEAN, STD
        )
        for side, scale in ((64, 1.0), (None, 2.0))
    ]
    assert torch.equal(both[0][0], both[1][0])
    assert torch.equal(both[0][1], both[1][1])


def test_a_place_with_several_classes_is_taken() -> None:
    mask = np.zeros((8, 32), np.int16)
    mask[:, 16:] = 1
    augment = JointAugment((8, 8))
    places = np.full((1, 10, 2), 0.0)
    places[0, 3, 1] = 0.5  # left edge at column 12: half of each class
    drawn = JointDraws(np.ones(1), places, np.zeros(1, np.bool_), np.ones((1, 3), np.float32))
    pixels = np.zeros((8, 32, 3), np.uint8)
    _, target = augment.cut(pixels, mask, drawn, 0, MEAN, STD)
    assert (target == 0).float().mean() == 0.5
    everywhere = JointAugment((8, 8), max_class_share=1.0)
    _, target = everywhere.cut(pixels, mask, drawn, 0, MEAN, STD)
    assert (target == 0).all(), "the first place"


def batches(images: SegmentationImages, **more: int) -> JointBatches:
    augment = JointAugment((16, 16), color=0.4)
    settings = {"batch_size": 3, "seed": 5} | more
    return JointBatches(
        images, "supernet", "search", augment=augment, device=torch.device("cpu"), **settings
    )


def test_a_batch_depends_on_seed_and_step_only(images: SegmentationImages) -> None:
    one, other = batches(images), batches(images)
    for step in (0, 1, 2):
        one.train(step)
    pixels, target = one.train(3)
    parts = [other.train(3, rows) for rows in (slice(0, 1), slice(1, 3))]
    assert torch.equal(pixels, torch.cat([part[0] for part in parts]))
    assert torch.equal(target, torch.cat([part[1] for part in parts]))
    assert not torch.equal(pixels, one.train(4)[0])
    assert not torch.equal(pixels, batches(images, seed=6).train(3)[0])


def test_too_few_images_are_refused(images: SegmentationImages) -> None:
    with pytest.raises(DataError, match="fewer than one batch of 99"):
        batches(images, batch_size=99)


def test_a_split_that_is_not_open_cannot_be_read(tmp_path: Path) -> None:
    found = opened(write_pairs(tmp_path))
    found.access = type(found.access)(found.access.shares, ("supernet",))
    with pytest.raises(PermissionError, match="not 'test'"):
        found.rows("test")
