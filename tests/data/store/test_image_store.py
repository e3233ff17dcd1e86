"""The decode-once store: whole, aligned with its source, and within its limit on the disk."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from masktas.data.sources import open_source
from masktas.data.splits import SPLITS
from masktas.data.store import image_store
from masktas.data.store.image_store import ImageStore
from masktas.errors import DataError
from stores import RecordedBar, content, numbers, opened, positions

# --- building and opening again


def test_few_parts_are_open_at_once(tmp_path, numbered, memory_source, monkeypatch):
    """A mapped part keeps a file open, and a process may have 1,024 by default."""
    monkeypatch.setattr(image_store, "most_open_files", lambda: 2)
    store = opened(memory_source([numbered(n) for n in range(300)]), tmp_path)
    images = store.images("supernet")
    shards = set(images.places[:, 0].tolist())
    for _ in range(2):
        np.testing.assert_array_equal(numbers(images), positions(images))
    assert store._map.cache_info().currsize == 1 < len(shards)


def test_the_limit_of_open_files_is_raised_where_it_can_be():
    code = (
        "import resource; from masktas.data.store.parts import most_open_files;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 640)); print(most_open_files());"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["640"] * 3


def test_images_come_back_in_their_places(tmp_path, numbered, memory_source):
    source = memory_source([numbered(number) for number in range(300)])
    store = opened(source, tmp_path)
    seen = []
    for split in SPLITS:
        images = store.images(split)
        np.testing.assert_array_equal(numbers(images), positions(images))
        assert images.split == split
        assert len(images) == len(images.rows) == store.splits[split]["images"]
        seen += positions(images).tolist()
    assert sorted(seen) == list(range(300))


def test_reading_some_images_gives_those_in_that_order(tmp_path, numbered, memory_source):
    images = opened(memory_source([numbered(n) for n in range(100)]), tmp_path).images("supernet")
    chosen = np.array([5, 0, 5, 3])
    pixels = images.read(chosen)
    assert pixels.shape == (4, 8, 8, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[:, 0, 0, 1], positions(images)[chosen])


def test_opening_again_reads_no_image_and_gives_the_same(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(100)]
    first_source = memory_source(contents)
    first = opened(first_source, tmp_path)
    assert set(first_source.reads) == set(range(100))
    before = content(first)
    again_source = memory_source(contents)
    again = opened(again_source, tmp_path)
    assert again_source.reads == []
    assert again.folder == first.folder
    assert content(again) == before
    assert again.summary() == first.summary()
    np.testing.assert_array_equal(
        again.images("search").read(np.arange(3)), first.images("search").read(np.arange(3))
    )


def test_building_twice_gives_the_same_files(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(700)]  # more than one chunk
    one = opened(memory_source(contents), tmp_path / "one")
    two = opened(memory_source(contents), tmp_path / "two")
    assert one.folder.name == two.folder.name
    assert content(one) == content(two)
    np.testing.assert_array_equal(numbers(one.images(*SPLITS)), np.arange(700))


def test_grey_stores_have_one_channel(tmp_path, numbered, memory_source):
    store = opened(memory_source([numbered(n) for n in range(100)]), tmp_path, in_channels=1)
    assert store.images("supernet").read(np.arange(2)).shape == (2, 8, 8, 1)
    assert len(store.statistics["mean"]) == len(store.statistics["std"]) == 1


def test_reading_gives_copies_that_may_be_written(tmp_path, numbered, memory_source):
    images = opened(memory_source([numbered(n) for n in range(100)]), tmp_path).images("supernet")
    first = images.read(np.arange(3))
    first[:] = 7
    assert (images.read(np.arange(3)) != 7).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (10, 10)},
        {"in_channels": 1},
        {"limit": 90},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_settings_make_another_store(tmp_path, numbered, memory_source, changes):
    contents = [numbered(number) for number in range(100)]
    first = opened(memory_source(contents), tmp_path)
    before = content(first)
    other = opened(memory_source(contents), tmp_path, **changes)
    assert other.folder != first.folder
    assert content(first) == before


def test_changed_file_makes_another_store(tmp_path, photos, numbered):
    first = opened(open_source(photos), tmp_path / "cache")
    (photos / "07.png").write_bytes(numbered(1234, side=9))
    second = opened(open_source(photos), tmp_path / "cache")
    assert second.folder != first.folder
    assert numbers(first.images(*SPLITS))[7] == 7
    assert numbers(second.images(*SPLITS))[7] == 1234


@pytest.mark.parametrize("counted", [True, False])
def test_progress_is_shown_while_building_only(tmp_path, numbered, memory_source, counted):
    shown, again = RecordedBar(), RecordedBar()
    contents = [numbered(number) for number in range(300)]
    opened(memory_source(contents, counted=counted), tmp_path, shown=shown)
    opened(memory_source(contents, counted=counted), tmp_path, shown=again)
    assert shown.began == [("decoding", 300 if counted else None)]
    assert [one for one in shown.updates if one] == list(range(1, 301))
    assert shown.updates[0] == 0  # while a sample is read
    assert again.began == []


def test_non_square_images_are_stored_as_they_are_asked_for(tmp_path, noise, memory_source):
    contents = [noise(number, size=(40, 20)) for number in range(100)]
    store = opened(memory_source(contents), tmp_path, image_size=(8, 16))
    assert store.image_size == (8, 16)
    assert store.shape == (10, 19, 3)
    assert store.summary()["size"] == "8x16"
    assert store.images("supernet").read(np.arange(2)).shape == (2, 10, 19, 3)


# --- numbers of the data


def test_statistics_are_those_of_the_search_split(tmp_path, noise, memory_source):
    store = opened(memory_source([noise(number) for number in range(100)]), tmp_path)
    images = store.images("search")
    pixels = images.read(np.arange(len(images))).astype(np.float64) / 255
    np.testing.assert_allclose(store.statistics["mean"], pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(store.statistics["std"], pixels.std(axis=(0, 1, 2)), atol=1e-6)


def test_statistics_of_images_of_one_colour_can_be_divided_by(tmp_path, numbered, memory_source):
    store = opened(memory_source([numbered(number) for number in range(100)]), tmp_path)
    assert store.statistics["mean"][2] == 0  # there is no blue
    assert 0 < store.statistics["std"][2] < 0.01


def test_statistics_that_are_given_are_not_measured(tmp_path, noise, memory_source):
    contents = [noise(number) for number in range(100)]
    given = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    store = opened(memory_source(contents), tmp_path, given=given)
    assert store.statistics == given
    assert not list(store.folder.glob("statistics*"))
    half = opened(memory_source(contents), tmp_path, given={"std": [1.0, 1.0, 1.0]})
    assert half.folder == store.folder
    assert half.statistics["std"] == [1.0, 1.0, 1.0]
    assert half.statistics["mean"] != given["mean"]


def test_building_takes_little_memory(tmp_path, numbered, memory_source):
    contents = [numbered(number, side=64) for number in range(1500)]
    stored = 1500 * 64 * 64 * 3
    tracemalloc.start()
    try:
        opened(memory_source(contents), tmp_path, image_size=(64, 64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < stored / 3


@pytest.mark.parametrize(
    ("sides", "margin"),
    [([64], True), ([8], False), ([4], False), ([64, 64, 4], True), ([64, 4, 4], False)],
    ids=["larger", "equal", "smaller", "mostly larger", "mostly smaller"],
)
def test_margin_is_kept_only_where_most_images_are_larger(
    tmp_path, numbered, memory_source, sides, margin
):
    contents = [numbered(number, side=sides[number % len(sides)]) for number in range(90)]
    store = opened(memory_source(contents), tmp_path)
    side = store.images("supernet").stored.shape[0]
    assert store.info["stored"] == [side, side]
    assert 8 * 8 / 7 <= side <= 11 if margin else side == 8
    assert store.summary()["size"] == 8


# --- bounded, and without a cache


def same_images(one: ImageStore, other: ImageStore) -> None:
    for split in SPLITS:
        first, second = one.images(split), other.images(split)
        np.testing.assert_array_equal(first.places, second.places)
        every = np.arange(len(first))
        np.testing.assert_array_equal(first.read(every), second.read(every))
    assert one.statistics == other.statistics
    assert one.splits == other.splits


@pytest.mark.parametrize(
    ("most", "counted"), [(0, True), (100, True), (100, False), (256, True), (300, False)]
)
def test_bounded_cache_gives_the_same_images(tmp_path, numbered, memory_source, most, counted):
    contents = [numbered(number) for number in range(400)]
    contents[7] = b"no image"
    quiet = {"warn": lambda text: None}
    whole = opened(memory_source(contents), tmp_path / "whole", **quiet)
    source = memory_source(contents, counted=counted)
    bounded = opened(source, tmp_path / "cache", num_bytes=most * 8 * 8 * 3 + 5, **quiet)
    stored = sum(path.stat().st_size for path in bounded.folder.rglob("*.u8"))
    assert (most - 1) * 192 <= stored <= most * 192
    assert bounded.images(*SPLITS).is_slow
    assert not whole.images(*SPLITS).is_slow
    same_images(bounded, whole)


def test_cached_images_are_not_read_again(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(300)]
    source = memory_source(contents)
    store = opened(source, tmp_path, num_bytes=100 * 192)
    assert store.statistics
    source.reads.clear()
    images = store.images(*SPLITS)
    images.read(np.arange(100))
    assert source.reads == []
    images.read(np.arange(95, 105))
    assert sorted(source.reads) == list(range(100, 105))


def test_image_that_changed_since_is_not_taken_for_the_old_one(tmp_path, numbered, memory_source):
    source = memory_source([numbered(number) for number in range(100)])
    store = opened(source, tmp_path, num_bytes=0)
    images = store.images(*SPLITS)
    source.contents[5] = numbered(999)
    with pytest.raises(DataError, match=r"memory/5: has changed"):
        images.read(np.array([5]))
    source.contents[6] = None
    with pytest.raises(DataError, match=r"memory/6: gone, though"):
        images.read(np.array([6]))
