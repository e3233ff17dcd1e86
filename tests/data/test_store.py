"""The decode-once store: whole or not there, aligned with its source, closed to other splits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from masktas.data.sources import FolderSource, ParquetSource, open_source
from masktas.data.splits import SPLITS
from masktas.data.store import ImageStore, open_store
from masktas.errors import DataError

SHARES = {"search_share": 0.2, "validation_share": 0.2, "test_share": 0.2}

# A process of its own that opens a store over a folder of images; SOURCE is put in its place.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from masktas.data.sources import FolderSource, open_source
from masktas.data.store import open_store

photos, folder, name = sys.argv[1:]

SOURCE

source = open_source(photos)
store = open_store(
    Source(source.root, source.files), photos, Path(folder), image_size=8, in_channels=3,
    shares={"search_share": 0.2, "validation_share": 0.2, "test_share": 0.2},
    allowed=("supernet",), track=lambda items, total, label: items, warn=print,
)
print(store.folder.name, store.images("supernet").pixels.sum())
"""
KILLED = """
class Source(FolderSource):
    def read(self, shard, index):
        if self.files[index].startswith("30"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(shard, index)
"""
WAITING = """
class Source(FolderSource):
    def read(self, shard, index):
        Path(folder, f"began-{name}").touch()
        time.sleep(0.01)
        return super().read(shard, index)
"""


def opened(source, folder, **changes) -> ImageStore:
    options = {
        "image_size": 8,
        "in_channels": 3,
        "shares": SHARES,
        "allowed": SPLITS,
        "track": lambda items, total, label: items,
        "warn": lambda text: pytest.fail(f"an unexpected warning: {text}"),
    }
    return open_store(source, "photos", folder, **{**options, **changes})


def content(store: ImageStore) -> dict[str, bytes]:
    """Everything a store holds, by file."""
    return {path.name: path.read_bytes() for path in sorted(store.folder.iterdir())}


def numbers(images) -> np.ndarray:
    """The numbers that `numbered` images tell, after checking that each is of one colour."""
    pixels = images.read(np.arange(len(images))).astype(int)
    assert (pixels == pixels[:, :1, :1]).all()
    return pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]


def visible(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


@pytest.fixture
def photos(tmp_path, numbered):
    """A folder of 60 images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}.png").write_bytes(numbered(number))
    return folder


# Building and opening again


def test_images_come_back_in_their_places(tmp_path, numbered, memory_source):
    source = memory_source([numbered(number) for number in range(300)])
    store = opened(source, tmp_path)
    seen = []
    for split in SPLITS:
        images = store.images(split)
        np.testing.assert_array_equal(numbers(images), images.positions)
        assert images.split == split
        assert len(images) == len(images.rows) == store.info["splits"][split]["images"]
        seen += images.positions.tolist()
    assert sorted(seen) == list(range(300))


def test_reading_some_images_gives_those_in_that_order(tmp_path, numbered, memory_source):
    images = opened(memory_source([numbered(n) for n in range(100)]), tmp_path).images("supernet")
    chosen = np.array([5, 0, 5, 3])
    pixels = images.read(chosen)
    assert pixels.shape == (4, 8, 8, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[:, 0, 0, 1], images.positions[chosen])


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
    assert len(store.mean) == len(store.std) == 1


def test_pixels_are_memory_mapped_and_not_to_be_written(tmp_path, numbered, memory_source):
    images = opened(memory_source([numbered(n) for n in range(100)]), tmp_path).images("supernet")
    assert isinstance(images.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images.pixels[0] = 0


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 10},
        {"in_channels": 1},
        {"limit": 90},
        {"shares": {**SHARES, "search_share": 0.3}},
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


def test_progress_is_shown_while_building_only(tmp_path, numbered, memory_source):
    shown = []

    def track(items, total, label):
        shown.append((len(list(items)), total, label))
        return items

    contents = [numbered(number) for number in range(700)]
    opened(memory_source(contents), tmp_path, track=track)
    opened(memory_source(contents), tmp_path, track=track)
    assert shown == [(2, 2, "decoding")]


# Which images


@pytest.mark.parametrize(("count", "limit"), [(1000, 100), (500, 499), (300, 150), (101, 60)])
def test_limit_is_spread_evenly(tmp_path, numbered, memory_source, count, limit):
    source = memory_source([numbered(number) for number in range(count)])
    images = opened(source, tmp_path, limit=limit).images(*SPLITS)
    positions = images.positions
    assert len(images) == limit
    assert positions[0] == 0
    assert positions[-1] == count - 1
    assert np.diff(positions).min() >= 1
    even = np.arange(limit) * (count - 1) / (limit - 1)
    assert np.abs(positions - even).max() <= 0.5
    np.testing.assert_array_equal(numbers(images), positions)


def test_limit_beyond_the_source_takes_everything(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(100)]
    assert len(opened(memory_source(contents), tmp_path, limit=5000).images(*SPLITS)) == 100
    assert len(visible(tmp_path)) == 1
    opened(memory_source(contents), tmp_path)
    assert len(visible(tmp_path)) == 1


def test_skipped_images_are_counted_and_named_in_one_warning(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(100)]
    contents[20], contents[63], contents[99] = b"no image", None, contents[99][:30]
    warned = []
    store = opened(memory_source(contents), tmp_path, warn=warned.append)
    assert len(warned) == 1
    assert warned[0].startswith("3 of 100 images could not be read and were skipped: memory/20 (")
    assert str(store.folder / "store.json") in warned[0]
    recorded = json.loads((store.folder / "store.json").read_text())["skipped"]
    assert [entry["name"] for entry in recorded] == ["memory/20", "memory/63", "memory/99"]
    assert recorded[1]["reason"] == "memory/63: gone"
    assert all(entry["reason"] for entry in recorded)
    assert store.summary()["skipped"] == recorded


def test_skipped_images_are_told_again_when_opening_again(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(99)] + [b"no image"]
    first, second = [], []
    opened(memory_source(contents), tmp_path, warn=first.append)
    opened(memory_source(contents), tmp_path, warn=second.append)
    assert first == second
    assert len(second) == 1


def test_labels_fit_their_images_after_skipping(tmp_path, numbered, memory_source):
    count = 1300  # several chunks
    contents = [numbered(number) for number in range(count)]
    broken = {0, 5, 511, 512, 700, *range(900, 930), count - 1}
    for number in broken:
        contents[number] = b"no image" if number % 2 else None
    source = memory_source(contents, labels=[number % 17 for number in range(count)])
    store = opened(source, tmp_path, warn=lambda text: None)
    labels = np.array(source.labels()[0])
    seen = []
    for split in SPLITS:
        images = store.images(split)
        told = numbers(images)
        np.testing.assert_array_equal(told, images.positions)
        np.testing.assert_array_equal(labels[images.positions], told % 17)
        seen += told.tolist()
    assert sorted(seen) == sorted(set(range(count)) - broken)
    assert len(store.images("supernet").pixels) == count - len(broken)


def test_skipping_and_limit_go_together(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(400)]
    for number in range(0, 400, 5):
        contents[number] = None
    store = opened(memory_source(contents), tmp_path, limit=200, warn=lambda text: None)
    images = store.images(*SPLITS)
    np.testing.assert_array_equal(numbers(images), images.positions)
    assert len(images) + len(store.info["skipped"]) == 200


def test_skipping_moves_no_other_image_to_another_split(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(200)]
    whole = opened(memory_source(contents), tmp_path / "whole")
    broken = list(contents)
    broken[10] = None
    part = opened(memory_source(broken), tmp_path / "part", warn=lambda text: None)
    for split in SPLITS:
        expected = [n for n in whole.images(split).positions if n != 10]
        np.testing.assert_array_equal(part.images(split).positions, expected)


def test_all_broken_is_a_data_error_that_names_the_first(tmp_path, memory_source):
    source = memory_source([b"no image", b"neither"] * 20)
    with pytest.raises(DataError, match=r"photos: none of 40 images could be decoded.*memory/0: "):
        opened(source, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("split", ["search", "validation", "test"])
def test_empty_split_says_how_to_mend_it(tmp_path, numbered, memory_source, split):
    source = memory_source([numbered(number) for number in range(100)])
    shares = {**SHARES, f"{split}_share": 0.0}
    with pytest.raises(DataError, match=rf"100 images.*the {split} split.*--{split}-share"):
        opened(source, tmp_path, shares=shares)
    assert os.listdir(tmp_path) == []


def test_empty_supernet_split_asks_for_images(tmp_path, numbered, memory_source):
    source = memory_source([numbered(number) for number in range(100)], test=set(range(100)))
    with pytest.raises(DataError, match=r"none falls into the supernet split\. Give more images"):
        opened(source, tmp_path)


def test_decompression_bombs_are_skipped_and_python_warns_of_nothing(
    tmp_path, numbered, claiming, memory_source
):
    contents = [numbered(number) for number in range(1000)]
    bombs = range(0, 1000, 100)
    for number in bombs:
        contents[number] = claiming(10_000, 10_000)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        store = opened(memory_source(contents), tmp_path, warn=lambda text: None)
    assert [str(warning.message) for warning in seen] == []
    assert len(store.info["skipped"]) == len(bombs)
    assert all(len(entry["reason"]) > 10 for entry in store.info["skipped"])


def test_dangling_link_is_skipped_like_a_broken_image(tmp_path, photos):
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    warned = []
    store = opened(open_source(photos), tmp_path / "cache", warn=warned.append)
    assert len(store.images(*SPLITS)) == 60
    assert "gone.png" in warned[0]


def test_damaged_parquet_file_is_named(tmp_path, numbered, write_table, damage_column):
    path = write_table(tmp_path / "a.parquet", [numbered(n) for n in range(60)])
    damage_column(path, "image.bytes")
    with pytest.raises(DataError, match=r"a\.parquet"):
        opened(open_source(path), tmp_path / "cache")


# Labels


class NoLabels(FolderSource):
    """A source whose labels must not be asked for."""

    def labels(self, shard):
        raise AssertionError("labels were read")


def test_building_never_asks_for_labels(tmp_path, photos):
    source = open_source(photos)
    store = opened(NoLabels(source.root, source.files), tmp_path / "cache")
    assert len(store.images(*SPLITS)) == 60


def test_table_with_an_unreadable_label_column_is_stored_whole(
    tmp_path, numbered, write_table, damage_column
):
    images = [numbered(number) for number in range(100)]
    path = write_table(tmp_path / "a.parquet", images, list(range(100)))
    damage_column(path, "label")
    source = open_source(path)
    assert isinstance(source, ParquetSource)
    store = opened(source, tmp_path / "cache")
    np.testing.assert_array_equal(numbers(store.images(*SPLITS)), np.arange(100))


def test_labels_make_no_difference_to_what_is_stored(tmp_path, numbered, write_table):
    images = [numbered(number) for number in range(100)]
    stores = []
    for name, labels in (("with", list(range(100))), ("without", None)):
        (tmp_path / name).mkdir()
        path = write_table(tmp_path / name / "a.parquet", images, labels)
        stores.append(opened(open_source(path), tmp_path / name / "cache"))
    assert content(stores[0]) == content(stores[1])


# Splits


def test_declared_test_images_and_their_copies_are_the_test_split(
    tmp_path, numbered, memory_source
):
    contents = [numbered(number) for number in range(200)]
    contents[150] = contents[3]  # a copy of a test image in the training half
    store = opened(memory_source(contents, test=set(range(20))), tmp_path)
    assert store.images("test").positions.tolist() == [*range(20), 150]
    assert store.info["declared_test"] is True
    assert store.summary()["duplicates"] == 1


def test_copies_are_counted_and_stay_together(tmp_path, numbered, memory_source):
    contents = [numbered(number % 100) for number in range(300)]
    store = opened(memory_source(contents), tmp_path)
    assert store.summary()["duplicates"] == 200
    of_splits = [set(numbers(store.images(split)).tolist()) for split in SPLITS]
    assert sum(len(split) for split in of_splits) == 100


def test_stage_cannot_read_a_split_that_it_was_not_opened_for(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(100)]
    store = opened(memory_source(contents), tmp_path, allowed=("supernet", "search"))
    assert len(store.images("supernet", "search")) > 0
    for splits in (("test",), ("validation",), ("supernet", "test"), ("no such split",)):
        with pytest.raises(PermissionError, match=splits[-1]):
            store.images(*splits)


def test_several_splits_together_are_their_union_in_order(tmp_path, numbered, memory_source):
    store = opened(memory_source([numbered(number) for number in range(200)]), tmp_path)
    both = store.images("search", "supernet")
    parts = [store.images(split).positions.tolist() for split in ("supernet", "search")]
    assert both.positions.tolist() == sorted(parts[0] + parts[1])
    np.testing.assert_array_equal(numbers(both), both.positions)
    assert both.split == "search+supernet"


def test_summary_names_each_splits_content(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(200)]
    first = opened(memory_source(contents), tmp_path / "one").summary()
    assert set(first["splits"]) == set(SPLITS)
    assert len({split["digest"] for split in first["splits"].values()}) == 4
    turned = opened(memory_source(contents[::-1]), tmp_path / "two").summary()
    assert turned["splits"] == first["splits"]  # the order of images is no part of it
    more = opened(memory_source([*contents, numbered(999)]), tmp_path / "three").summary()
    changed = [name for name in SPLITS if more["splits"][name] != first["splits"][name]]
    assert len(changed) == 1


# Numbers of the data


def test_statistics_are_those_of_the_supernet_split(tmp_path, noise, memory_source):
    store = opened(memory_source([noise(number) for number in range(100)]), tmp_path)
    images = store.images("supernet")
    pixels = images.read(np.arange(len(images))).astype(np.float64) / 255
    np.testing.assert_allclose(store.mean, pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(store.std, pixels.std(axis=(0, 1, 2)), atol=1e-6)


def test_statistics_of_images_of_one_colour_can_be_divided_by(tmp_path, numbered, memory_source):
    store = opened(memory_source([numbered(number) for number in range(100)]), tmp_path)
    assert store.mean[2] == 0  # there is no blue
    assert 0 < store.std[2] < 0.01


def test_building_takes_little_more_memory_than_the_images(tmp_path, numbered, memory_source):
    source = memory_source([numbered(number, side=64) for number in range(2000)])
    stored = 2000 * 64 * 64
    shares = dict.fromkeys(SHARES, 0.02)
    tracemalloc.start()
    try:
        opened(source, tmp_path, image_size=64, in_channels=1, shares=shares)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * stored  # as float64 all at once they would take 8 times as much, and more


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
    side = store.images("supernet").pixels.shape[1]
    assert store.info["side"] == side
    assert 8 * 8 / 7 <= side <= 11 if margin else side == 8
    assert store.summary()["size"] == 8


# Stopped and disturbed


def test_interrupted_building_leaves_nothing_and_can_be_done_again(
    tmp_path, numbered, memory_source
):
    contents = [numbered(number) for number in range(700)]
    stopped = [*contents[:350], KeyboardInterrupt(), *contents[351:]]
    with pytest.raises(KeyboardInterrupt):
        opened(memory_source(stopped), tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []
    store = opened(memory_source(contents), tmp_path / "cache")
    np.testing.assert_array_equal(numbers(store.images(*SPLITS)), np.arange(700))
    assert content(store) == content(opened(memory_source(contents), tmp_path / "whole"))


def test_killed_process_leaves_nothing_that_looks_whole(tmp_path, photos):
    cache = tmp_path / "cache"
    program = [sys.executable, "-c", PROGRAM.replace("SOURCE", KILLED), photos, cache, "one"]
    assert subprocess.run(program, timeout=60, check=False).returncode == -9
    assert visible(cache) == []
    store = opened(open_source(photos), cache)
    assert visible(cache) == [store.folder.name]
    np.testing.assert_array_equal(numbers(store.images(*SPLITS)), np.arange(60))


def test_folder_that_lost_its_record_is_built_anew(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(100)]
    store = opened(memory_source(contents), tmp_path)
    before = content(store)
    (store.folder / "store.json").unlink()
    assert content(opened(memory_source(contents), tmp_path)) == before


def test_place_that_cannot_be_written_is_a_data_error(tmp_path, numbered, memory_source):
    (tmp_path / "cache").write_text("a file where the folder is to be")
    source = memory_source([numbered(number) for number in range(100)])
    with pytest.raises(DataError, match="cache"):
        opened(source, tmp_path / "cache")


def test_of_two_threads_that_want_it_one_builds(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(100)]
    building = threading.Event()
    readers = set()

    class Slow(memory_source):
        def read(self, index):
            building.set()
            readers.add(id(self))
            time.sleep(0.002)
            return super().read(index)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(opened, Slow(contents), tmp_path / "cache")
        assert building.wait(10)  # the other one comes while it is at it
        second = pool.submit(opened, Slow(contents), tmp_path / "cache")
        stores = [first.result(), second.result()]
    assert len(readers) == 1
    assert stores[0].folder == stores[1].folder
    for store in stores:
        np.testing.assert_array_equal(numbers(store.images(*SPLITS)), np.arange(100))
    assert os.listdir(tmp_path / "cache") == [stores[0].folder.name]


def test_of_two_processes_that_want_it_one_builds(tmp_path, photos):
    cache = tmp_path / "cache"
    cache.mkdir()
    program = [sys.executable, "-c", PROGRAM.replace("SOURCE", WAITING), photos, cache]
    processes = [
        subprocess.Popen([*program, name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1] != ""
    names = os.listdir(cache)
    assert len([name for name in names if name.startswith("began-")]) == 1
    left = [name for name in names if not name.startswith("began-")]
    assert left == [said[0].split()[0]]
    store = opened(open_source(photos), cache)
    np.testing.assert_array_equal(numbers(store.images(*SPLITS)), np.arange(60))
