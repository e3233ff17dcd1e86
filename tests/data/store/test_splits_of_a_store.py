"""The splits of a store: closed to other stages, by content, and without a look at labels."""

from __future__ import annotations

import numpy as np
import pytest

from masktas.data.sources import open_source
from masktas.data.splits import SPLITS
from masktas.errors import DataError
from stores import SHARES, numbers, opened, positions

# --- splits


def test_other_shares_divide_the_same_store(tmp_path, numbered, memory_source):
    source = memory_source([numbered(number) for number in range(200)])
    first = opened(source, tmp_path)
    first.statistics  # noqa: B018
    source.reads.clear()
    other = opened(source, tmp_path, shares={**SHARES, "search_share": 0.3})
    assert source.reads == []
    assert other.folder == first.folder
    assert len(other.images("search")) > len(first.images("search"))
    assert other.statistics != first.statistics
    same = opened(source, tmp_path, shares={**SHARES, "test_share": 0.3})
    assert set(same.images("search").rows) != set(first.images("search").rows)


@pytest.mark.parametrize("split", ["search", "validation", "test"])
def test_empty_split_says_how_to_mend_it(tmp_path, numbered, memory_source, split):
    source = memory_source([numbered(number) for number in range(100)])
    shares = {**SHARES, f"{split}_share": 0.0}
    with pytest.raises(DataError, match=rf"100 images.*the {split} split.*--{split}-share"):
        opened(source, tmp_path, shares=shares)
    assert opened(source, tmp_path)  # with other shares nothing is decoded again


def test_empty_supernet_split_asks_for_images(tmp_path, numbered, memory_source):
    source = memory_source([numbered(number) for number in range(100)], test=set(range(100)))
    with pytest.raises(DataError, match=r"falls into the supernet split\. Give more images"):
        opened(source, tmp_path)


def test_declared_test_images_and_their_copies_are_the_test_split(
    tmp_path, numbered, memory_source
):
    contents = [numbered(number) for number in range(200)]
    contents[150] = contents[3]  # a copy of a test image in the training half
    store = opened(memory_source(contents, test=set(range(20))), tmp_path)
    assert positions(store.images("test")).tolist() == [*range(20), 150]
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
    parts = [positions(store.images(split)).tolist() for split in ("supernet", "search")]
    assert positions(both).tolist() == sorted(parts[0] + parts[1])
    np.testing.assert_array_equal(numbers(both), positions(both))
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


# --- labels


def test_building_never_asks_for_labels(tmp_path, photos, monkeypatch):
    source = open_source(photos)
    monkeypatch.setattr(type(source), "labels", lambda *_: pytest.fail("labels were read"))
    assert len(opened(source, tmp_path / "cache").images(*SPLITS)) == 60


def test_table_with_an_unreadable_label_column_is_stored_whole(
    tmp_path, numbered, write_table, damage_column
):
    images = [numbered(number) for number in range(100)]
    path = write_table(tmp_path / "a.parquet", images, list(range(100)))
    damage_column(path, "label")
    store = opened(open_source(path), tmp_path / "cache")
    np.testing.assert_array_equal(numbers(store.images(*SPLITS)), np.arange(100))


def test_labels_make_no_difference_to_what_is_stored(tmp_path, numbered, write_table):
    images = [numbered(number) for number in range(100)]
    stores = []
    for name, labels in (("with", list(range(100))), ("without", None)):
        (tmp_path / name).mkdir()
        path = write_table(tmp_path / name / "a.parquet", images, labels)
        stores.append(opened(open_source(path), tmp_path / name / "cache"))
    first, second = (store.images("supernet") for store in stores)
    np.testing.assert_array_equal(numbers(first), numbers(second))
