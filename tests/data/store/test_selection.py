"""Which images of a source a store holds: limits, what cannot be read, shards of unknown length."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from masktas.data.sources import open_source
from masktas.data.splits import SPLITS
from masktas.data.store import build
from masktas.errors import DataError
from stores import numbers, opened, positions


def visible(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


# --- limits


@pytest.mark.parametrize(("count", "limit"), [(1000, 100), (500, 499), (300, 150), (101, 60)])
def test_limit_is_spread_evenly(tmp_path, numbered, memory_source, count, limit):
    source = memory_source([numbered(number) for number in range(count)])
    images = opened(source, tmp_path, limit=limit).images(*SPLITS)
    found = positions(images)
    assert len(images) == limit
    assert found[0] == 0
    assert found[-1] == count - 1
    assert np.diff(found).min() >= 1
    even = np.arange(limit) * (count - 1) / (limit - 1)
    assert np.abs(found - even).max() <= 0.5
    np.testing.assert_array_equal(numbers(images), found)


def test_limit_beyond_the_source_takes_everything(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(100)]
    assert len(opened(memory_source(contents), tmp_path, limit=5000).images(*SPLITS)) == 100
    assert len(visible(tmp_path)) == 1
    opened(memory_source(contents), tmp_path)
    assert len(visible(tmp_path)) == 1


def test_limit_of_a_source_without_an_end_is_spread_over_shards(tmp_path, numbered, memory_source):
    source = memory_source([numbered(number) for number in range(1000)], counted=False)
    store = opened(source, tmp_path, limit=100)
    places = store.images(*SPLITS).places
    assert np.bincount(places[:, 0]).tolist() == [25] * 4
    np.testing.assert_array_equal(numbers(store.images(*SPLITS)), positions(store.images(*SPLITS)))


@pytest.mark.parametrize("limit", [10**30, 10**400])
def test_limit_beyond_any_index_takes_everything(tmp_path, numbered, memory_source, limit):
    source = memory_source([numbered(number) for number in range(600)], counted=False)
    store = opened(source, tmp_path, limit=limit)
    assert numbers(store.images(*SPLITS)).tolist() == [*range(600)]


def test_sample_ends_when_it_has_read_enough(monkeypatch, numbered, memory_source):
    source = memory_source([*map(numbered, range(60))])
    indices, sizes = build.select(source, None)
    assert len(list(build._sample(source, indices, sizes, lambda: None))) == build.SAMPLE
    monkeypatch.setattr(build, "SAMPLE_BYTES", 3 * len(numbered(0)) - 10)
    assert len(list(build._sample(source, indices, sizes, lambda: None))) == 3


# --- images that cannot be read


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
    assert recorded[1]["reason"] == "gone"
    assert all(entry["reason"] for entry in recorded)
    assert store.summary()["skipped"] == recorded
    assert store.summary()["num_skipped"] == 3
    assert store.summary()["tried"] == 100


def test_many_skipped_images_are_counted_and_the_first_are_listed(
    tmp_path, numbered, memory_source
):
    source = memory_source([*map(numbered, range(50)), *[None] * 450])
    warned: list[str] = []
    store = opened(source, tmp_path, warn=warned.append)
    paths = sorted((store.folder / "parts").glob("*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    assert [len(record["skipped"]) for record in records] == [100, 100]
    assert [record["num_skipped"] for record in records] == [206, 244]
    assert len(store.info["skipped"]) == 200
    assert store.info["num_skipped"] == 450
    assert store.summary()["num_skipped"] == 450
    assert len(store.summary()["skipped"]) == 100
    assert warned[0].startswith("450 of 500 images could not be read")
    assert "The first 200 are listed" in warned[0]


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
    labels = np.concatenate([source.labels(shard) for shard in range(source.num_shards)])
    seen = []
    for split in SPLITS:
        images = store.images(split)
        told = numbers(images)
        np.testing.assert_array_equal(told, positions(images))
        np.testing.assert_array_equal(labels[positions(images)], told % 17)
        seen += told.tolist()
    assert sorted(seen) == sorted(set(range(count)) - broken)


def test_skipping_and_limit_go_together(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(400)]
    for number in range(0, 400, 5):
        contents[number] = None
    store = opened(memory_source(contents), tmp_path, limit=200, warn=lambda text: None)
    images = store.images(*SPLITS)
    np.testing.assert_array_equal(numbers(images), positions(images))
    assert len(images) + len(store.info["skipped"]) == 200


def test_skipping_moves_no_other_image_to_another_split(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(200)]
    whole = opened(memory_source(contents), tmp_path / "whole")
    broken = list(contents)
    broken[10] = None
    part = opened(memory_source(broken), tmp_path / "part", warn=lambda text: None)
    for split in SPLITS:
        expected = [n for n in positions(whole.images(split)) if n != 10]
        np.testing.assert_array_equal(positions(part.images(split)), expected)


def test_all_broken_is_a_data_error_that_names_the_first(tmp_path, memory_source):
    source = memory_source([b"no image", b"neither"] * 20)
    with pytest.raises(DataError, match=r"photos: none of 40 images could be decoded.*memory/0: "):
        opened(source, tmp_path)
    assert not list(tmp_path.rglob("store.json"))


def test_decompression_bombs_are_skipped(tmp_path, numbered, claiming, memory_source):
    contents = [numbered(number) for number in range(100)]
    bombs = range(0, 100, 10)
    for number in bombs:
        contents[number] = claiming(10_000, 10_000)
    store = opened(memory_source(contents), tmp_path, warn=lambda text: None)
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
    with pytest.raises(DataError, match=r"none of 0 images could be decoded.*a\.parquet"):
        opened(open_source(path), tmp_path / "cache")


def test_strict_stops_at_what_would_be_skipped(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(100)]
    contents[20] = b"no image"
    with pytest.raises(DataError, match=r"memory/20: .*Without --strict"):
        opened(memory_source(contents), tmp_path, strict=True)
    opened(memory_source(contents), tmp_path, warn=lambda text: None)
    with pytest.raises(DataError, match=r"memory/20: .*Without --strict"):
        opened(memory_source(contents), tmp_path, strict=True)


def test_shard_that_ends_early_counts_as_far_as_it_goes(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(600)]
    contents[300] = DataError("the file ends here")
    warned = []
    source = memory_source(contents, counted=False)
    store = opened(source, tmp_path, warn=warned.append)
    told = numbers(store.images(*SPLITS)).tolist()
    assert told == [*range(300), *range(512, 600)]
    assert "the file ends here" in warned[0]
    with pytest.raises(DataError, match="the file ends here"):
        opened(memory_source(contents, counted=False), tmp_path / "strict", strict=True)
