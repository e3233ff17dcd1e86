"""Batches depend on the seed and the step alone, so a resumed run sees what it would have seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from examples import examples
from masktas.data.augment import crop, random_boxes, random_colors
from masktas.data.batches import Augment, Batches, ReadAhead
from masktas.data.mix import mix
from masktas.data.randaugment import RandAugment, operate, operation_names
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import DataError
from masktas.seeding import seed_for

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
EVERYTHING = {
    "crop_scale": (0.2, 1.0), "flip": True, "color": 0.4, "erasing": 0.5, "mixup": 0.8,
    "cutmix": 1.0, "mix_probability": 0.7,
    "randaugment": RandAugment.parse("rand-m9-mstd0.5-inc1"),
}  # fmt: skip


def split_of(count: int, side: int = 8, channels: int = 3) -> Images:
    """A split that holds every second image of a store."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * count, side, side, channels), dtype=np.uint8)
    rows = np.arange(0, 2 * count, 2)
    return Images(InMemory(pixels), rows, "supernet")


def batches_of(images: Images, **changes) -> Batches:
    channels = images.stored.shape[2]
    varied = {name: changes.pop(name) for name in Augment.__slots__ if name in changes}
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


@examples(50)
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


# --- augmentation of fine-tuning -----------------------------------------------------------------


class Slow(InMemory):
    """Images that count as decoded each time; `reads` are the rows that were read."""

    def __init__(self, pixels: np.ndarray) -> None:
        super().__init__(pixels)
        self.reads: list[list[int]] = []

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.reads.append(rows.tolist())
        return super().read(rows)

    def is_slow(self, _: np.ndarray) -> bool:
        return True


def assert_same(one, other):
    assert torch.equal(one.pixels, other.pixels)
    for name in ("numbers", "partners", "share"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("color", [0.0, 0.4])
def test_without_new_augmentations_batches_are_what_they_were(color):
    batches = batches_of(split_of(24), color=color)
    for step in (0, 3, 8):
        rng = np.random.default_rng(seed_for(0, "crops", step))
        boxes = random_boxes(rng, 4, (8, 8), (0.2, 1.0))
        flips = rng.uniform(size=4) < 0.5
        colors = random_colors(rng, 4, color) if color else None
        pixels = batches.images.read(batches.indices(step))
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        expected = crop(pixels, boxes, flips, (8, 8), colors=colors, mean=mean, std=std)
        images, indices = batches.train(step)
        assert torch.equal(images, expected)
        mixed = batches.mixed(step)
        assert torch.equal(mixed.pixels, expected)
        assert (mixed.share.dtype, mixed.share.tolist()) == (np.float32, [1.0] * 4)
        for numbers in (mixed.numbers, mixed.partners):
            np.testing.assert_array_equal(numbers, indices)


@pytest.mark.parametrize("name", ["randaugment", "erasing", "mixup", "cutmix"])
def test_augmentations_leave_the_draws_of_others_alone(name):
    images = split_of(24)
    plain, one = (
        batches_of(images, color=0.4),
        batches_of(images, color=0.4, **{name: EVERYTHING[name]}),
    )
    for step in range(3):
        before, after = plain.draw(step), one.draw(step)
        for field in ("indices", "boxes", "flips", "colors"):
            np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
        assert (after.operations is None) == (name != "randaugment")
        assert (after.erasures is None) == (name != "erasing")
        assert (one.mixing(step) is None) == (name not in ("mixup", "cutmix"))


@pytest.mark.parametrize(("channels", "kind"), [(3, InMemory), (1, InMemory), (3, Slow)])
@pytest.mark.parametrize("batch_size", [6, 7])
def test_rows_of_several_processes_are_the_whole_batch(channels, kind, batch_size):
    images = split_of(24, side=12, channels=channels)
    split = Images(kind(images.stored.pixels), images.rows, "supernet")
    whole = batches_of(images, batch_size=batch_size, **EVERYTHING)
    processes = [batches_of(split, batch_size=batch_size, **EVERYTHING) for _ in range(3)]
    steps = range(12)
    kinds = {type(None) if one is None else one.box is None for one in map(whole.mixing, steps)}
    assert len(kinds) == 3  # left, mixed, cut
    for step in steps:
        expected = whole.mixed(step)
        alone = batches_of(images, batch_size=batch_size, **EVERYTHING).mixed(step)
        assert_same(alone, expected)  # any step alone, as after a resume
        for number in (2, 3):
            edges = np.linspace(0, batch_size, number + 1).astype(int)
            parts = [
                process.mixed(step, slice(start, end))
                for process, start, end in zip(processes, edges, edges[1:], strict=False)
            ]
            assert torch.equal(torch.cat([part.pixels for part in parts]), expected.pixels)
            for name in ("numbers", "partners", "share"):
                joined = np.concatenate([getattr(part, name) for part in parts])
                np.testing.assert_array_equal(joined, getattr(expected, name))


def test_partner_of_an_image_is_the_one_from_the_end_of_the_batch():
    images = split_of(24)
    mixing, plain = batches_of(images, **EVERYTHING), batches_of(images, **EVERYTHING)
    for step in range(8):
        pixels, indices = plain.train(step)  # without mixing
        mixed, drawn = mixing.mixed(step), mixing.mixing(step)
        np.testing.assert_array_equal(mixed.numbers, indices)
        if drawn is None:
            assert torch.equal(mixed.pixels, pixels)
            np.testing.assert_array_equal(mixed.partners, indices)
            assert (mixed.share == 1).all()
            continue
        np.testing.assert_array_equal(mixed.partners, indices[::-1])
        np.testing.assert_array_equal(mixed.share, np.float32(drawn.share))
        assert torch.equal(
            mixed.pixels, mix(pixels, np.arange(4), np.arange(4)[::-1].copy(), drawn)
        )


def test_partners_are_read_only_if_a_step_mixes_and_once_if_images_are_slow():
    images = split_of(24)
    stored = Slow(images.stored.pixels)
    batches = batches_of(Images(stored, images.rows, "supernet"), **EVERYTHING)
    own = slice(1, 2)
    steps = range(10)
    for step in steps:
        batches.mixed(step, own)
    batches._ahead._thread.shutdown()
    expected = []
    for step in [*steps, 10]:
        indices = batches.indices(step)
        rows = [1] if batches.mixing(step) is None else [1, 2]
        expected.append(images.rows[indices[rows]].tolist())
    assert stored.reads == expected


def test_operations_are_applied_to_the_cut_image_before_normalisation():
    images = split_of(40, side=20)
    augment = {"randaugment": EVERYTHING["randaugment"], "batch_size": 40, "image_size": (16, 16)}
    batches = batches_of(images, **augment)
    drawn = batches.draw(0)
    cut = crop(images.read(drawn.indices), drawn.boxes, drawn.flips, (16, 16))
    names = operation_names(True)
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    result, _ = batches.train(0)
    for row, pixels in enumerate(cut.round().byte().permute(0, 2, 3, 1).numpy()):
        image = Image.fromarray(pixels)
        numbers, levels = drawn.operations.numbers[row], drawn.operations.levels[row]
        for number, level in zip(numbers, levels, strict=True):
            if number >= 0:
                image = operate(image, names[number], level, (102, 128, 153))
        torch.testing.assert_close(result[row], finish(image), atol=1e-5, rtol=1e-5)


def test_erased_boxes_are_noise_and_the_remaining_pixels_as_before():
    images = split_of(24, side=16)
    common = {"batch_size": 24, "image_size": (16, 16), "color": 0.4}
    before, _ = batches_of(images, **common).train(0)
    batches = batches_of(images, erasing=0.5, **common)
    after, _ = batches.train(0)
    erased = torch.zeros(24, 1, 16, 16, dtype=torch.bool)
    for one, (top, left, height, width) in zip(
        erased, batches.draw(0).erasures.boxes.tolist(), strict=True
    ):
        one[:, top : top + height, left : left + width] = True
    assert 4 < erased.any(dim=(1, 2, 3)).sum() < 20
    assert torch.equal((before != after), erased.expand_as(before))


def test_steps_and_seeds_have_draws_of_their_own():
    images = split_of(24)
    pairs = [(seed, step) for seed in (0, 1) for step in (0, 1, 6)]
    options = {**EVERYTHING, "mix_probability": 1.0}
    drawn = [(batches_of(images, seed=seed, **options), step) for seed, step in pairs]
    levels = {one.draw(step).operations.levels.tobytes() for one, step in drawn}
    seeds = {one.draw(step).erasures.seeds.tobytes() for one, step in drawn}
    shares = {one.mixing(step).share for one, step in drawn}
    assert [len(levels), len(seeds), len(shares)] == [6, 6, 6]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_pixel_can_be_augmented(channels):
    batches = batches_of(split_of(8, side=1, channels=channels), image_size=(1, 1), **EVERYTHING)
    for step in range(4):
        mixed = batches.mixed(step)
        assert mixed.pixels.shape == (4, channels, 1, 1)
        assert mixed.pixels.isfinite().all()


@pytest.mark.parametrize("channels", [2, 4])
def test_randaugment_refuses_images_that_are_not_gray_or_rgb(channels):
    images = split_of(8, channels=channels)
    with pytest.raises(DataError, match=rf"RandAugment.*supernet split have {channels}: switch"):
        batches_of(images, randaugment=RandAugment(), mean=[0.5] * channels, std=[0.5] * channels)
