"""Batches depend on the seed and the step alone, so a resumed run sees what it would have seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masktas.data.batches import Augment, Batches, ReadAhead
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import DataError

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def split_of(count: int, side: int = 8, channels: int = 3) -> Images:
    """A split that holds every second image of a store."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * count, side, side, channels), dtype=np.uint8)
    rows = np.arange(0, 2 * count, 2)
    return Images(InMemory(pixels), rows, "supernet")


def batches_of(images: Images, **changes) -> Batches:
    channels = images.stored.shape[2]
    varied = {name: changes.pop(name) for name in ("crop_scale", "flip") if name in changes}
    options = {
        "image_size": (8, 8),
        "mean": MEAN[:channels],
        "std": STD[:channels],
        "batch_size": 4,
        "seed": 0,
        "device": torch.device("cpu"),
        "augment": Augment(**{"crop_scale": (0.2, 1.0), "flip": True, **varied}),
    }
    return Batches(images, **{**options, **changes})


def epoch_of(batches: Batches, epoch: int) -> np.ndarray:
    steps = batches.steps_per_epoch
    return np.concatenate([batches.indices(epoch * steps + at) for at in range(steps)])


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
)
def test_no_image_comes_twice_within_an_epoch(count, batch_size, seed, epoch):
    batch_size = min(batch_size, count)
    batches = batches_of(split_of(count, side=1), batch_size=batch_size, seed=seed)
    assert batches.steps_per_epoch == count // batch_size
    order = epoch_of(batches, epoch)
    assert len(order) == count - count % batch_size
    assert len(set(order.tolist())) == len(order)
    assert 0 <= order.min() <= order.max() < count


def test_epoch_of_whole_batches_is_a_permutation():
    batches = batches_of(split_of(24))
    for epoch in range(3):
        assert sorted(epoch_of(batches, epoch)) == list(range(24))


def test_epochs_and_seeds_have_orders_of_their_own():
    batches, other = batches_of(split_of(24)), batches_of(split_of(24), seed=1)
    orders = [epoch_of(batches, 0), epoch_of(batches, 1), epoch_of(other, 0), np.arange(24)]
    for number, order in enumerate(orders):
        assert all((order != before).any() for before in orders[:number])


def test_images_left_out_of_one_epoch_come_in_another():
    batches = batches_of(split_of(10), batch_size=4)
    assert batches.steps_per_epoch == 2
    seen = {int(index) for epoch in range(20) for index in epoch_of(batches, epoch)}
    assert seen == set(range(10))


def test_batch_of_a_step_is_the_same_whatever_was_asked_before():
    steps = [0, 5, 17, 6, 100, 5]
    straight = batches_of(split_of(24))
    expected = {step: straight.train(step) for step in range(101)}
    jumping = batches_of(split_of(24))
    for step in steps:
        images, indices = jumping.train(step)
        assert torch.equal(images, expected[step][0])
        np.testing.assert_array_equal(indices, expected[step][1])
        jumping.plain(np.arange(3))


def test_batch_hangs_on_the_seed():
    (first, _), (other, _) = (batches_of(split_of(24), seed=seed).train(0) for seed in (0, 1))
    assert not torch.equal(first, other)


def test_same_image_is_cut_anew_in_every_epoch():
    batches = batches_of(split_of(4), batch_size=4)
    seen = []
    for step in range(4):
        images, indices = batches.train(step)
        seen.append(images[int(np.flatnonzero(indices == 0)[0])])
    assert all(not torch.equal(a, b) for n, a in enumerate(seen) for b in seen[:n])


def test_images_of_a_batch_are_cut_each_by_itself():
    images = split_of(32, side=64)
    images.stored.pixels[:] = images.stored.pixels[0]
    batch, _ = batches_of(images, batch_size=32, image_size=(16, 16), flip=False).train(0)
    assert len(torch.unique(batch.flatten(1), dim=0)) == 32


def test_train_says_which_images_it_holds():
    images = split_of(24)
    images.stored.pixels[:] = np.arange(48, dtype=np.uint8)[
        :, None, None, None
    ]  # whatever the crop
    batch, indices = batches_of(images, mean=[0.0] * 3, std=[1.0] * 3).train(3)
    colors = (batch * 255).round()
    expected = torch.from_numpy(images.rows[indices]).float()
    assert torch.equal(colors, expected[:, None, None, None].expand_as(colors))


def test_flips_happen_about_half_the_time_and_not_when_turned_off():
    images = split_of(200)
    images.stored.pixels[:, :, :4], images.stored.pixels[:, :, 4:] = (
        0,
        255,
    )  # dark left, bright right
    changes = {"batch_size": 200, "crop_scale": (1.0, 1.0)}
    flipped, _ = batches_of(images, **changes).train(0)
    share = (flipped[:, 0, 0, 0] > flipped[:, 0, 0, -1]).float().mean()
    assert 0.35 < share < 0.65
    straight, _ = batches_of(images, flip=False, **changes).train(0)
    assert (straight[:, 0, 0, 0] < straight[:, 0, 0, -1]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_channels_first_float32_and_normalised(channels):
    images = split_of(64, side=16, channels=channels)
    pixels = images.stored.pixels[images.rows] / 255
    mean, std = pixels.mean((0, 1, 2)).tolist(), pixels.std((0, 1, 2)).tolist()
    changes = {"mean": mean, "std": std, "batch_size": 64}
    plain = batches_of(images, image_size=(16, 16), **changes).plain(np.arange(64))
    assert plain.shape == (64, channels, 16, 16)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain.mean((0, 2, 3)), torch.zeros(channels), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        plain.std((0, 2, 3), correction=0), torch.ones(channels), atol=1e-4, rtol=0
    )
    train, _ = batches_of(images, image_size=(12, 12), **changes).train(0)
    assert train.shape == (64, channels, 12, 12)
    assert train.dtype == torch.float32
    assert train.mean().abs() < 0.1


def test_plain_is_the_normalised_middle_of_the_images_asked_for():
    images = split_of(10, side=12)
    indices = np.array([7, 2, 7])
    plain = batches_of(images).plain(indices)
    middle = images.stored.pixels[images.rows[indices], 2:10, 2:10] / 255
    expected = ((middle - MEAN) / STD).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(plain, expected, atol=1e-5)


@pytest.mark.parametrize("side", [8, 9, 10, 11])
def test_plain_shows_pixels_as_they_are_stored(side):
    images = split_of(4, side=side)
    plain = batches_of(images, mean=[0.0] * 3, std=[1.0] * 3).plain(np.arange(4))
    pixels = images.stored.pixels[images.rows].transpose(0, 3, 1, 2)
    edges = ((side - 8) // 2, (side - 7) // 2)
    slices = [pixels[:, :, edge : edge + 8, edge : edge + 8] for edge in edges]
    assert any(np.allclose(plain * 255, middle, atol=0.01) for middle in slices)


def test_plain_is_the_same_whenever_it_is_asked_for():
    batches = batches_of(split_of(10), flip=True)
    first = batches.plain(np.arange(10))
    batches.train(3)
    assert torch.equal(batches.plain(np.arange(10)), first)
    assert torch.equal(batches_of(split_of(10), seed=9).plain(np.arange(10)), first)


def test_too_few_images_say_what_to_change():
    with pytest.raises(DataError, match=r"supernet split has 3 images.*batch of 4.*--batch-size"):
        batches_of(split_of(3))


def test_exactly_one_batch_of_images_is_enough():
    batches = batches_of(split_of(4))
    assert batches.steps_per_epoch == 1
    assert sorted(batches.train(0)[1]) == [0, 1, 2, 3]


def test_images_read_ahead_are_used_for_their_own_step_only():
    images = split_of(12)
    ahead = ReadAhead(images)
    first, second, third = np.arange(12).reshape(3, 4)
    for wanted, following in ((first, second), (second, third), (first, second), (third, first)):
        assert (ahead.read(wanted, following) == images.read(wanted)).all()
