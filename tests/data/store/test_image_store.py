"""The decode-once store: whole or not there, aligned with its source, closed to other splits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from masktas.data.sources import open_source
from masktas.data.splits import SPLITS
from masktas.data.store import build
from masktas.data.store.build import Cache, StoreSpec
from masktas.data.store.image_store import ImageStore, SplitAccess, open_store
from masktas.errors import DataError

SHARES = {"search_share": 0.2, "validation_share": 0.2, "test_share": 0.2}

# A process of its own that opens a store over a folder of images; SOURCE is put in its place.
PROGRAM = """
import os, signal, sys, time
from contextlib import nullcontext
from pathlib import Path
from masktas.data.store.build import Cache, StoreSpec
from masktas.data.sources import open_source
from masktas.data.store.image_store import SplitAccess, open_store

photos, folder, name = sys.argv[1:]

class Shown:
    def update(self, completed, text=""):
        pass

class Source:
    num_shards = 6
    location = photos

    def __init__(self):
        self.inner = open_source(photos)

    def sizes(self):
        return [10] * 6

    def read(self, shard, index):
        return self.inner.read(0, 10 * shard + index)

    def fingerprint(self):
        return ["60 photos"]

    def stream(self, shard):
        BEFORE
        for index in range(10):
            yield self.read(shard, index)

store = open_store(
    Source(), StoreSpec((8, 8), 3), Cache(Path(folder), num_decoders=1),
    SplitAccess({"search_share": 0.2, "validation_share": 0.2, "test_share": 0.2}, ("supernet",)),
    bar=lambda label, total: nullcontext(Shown()), warn=print,
)
images = store.images("supernet")
print(store.folder.name, images.read(images.rows.argsort()).sum())
"""
KILLED = """
        if shard == 3:
            os.kill(os.getpid(), signal.SIGKILL)
"""
WAITING = """
        Path(folder, f"began-{shard}-{name}").touch()
        time.sleep(0.2)
"""


class RecordedBar:
    """A progress bar that records its calls."""

    def __init__(self) -> None:
        self.began: list[tuple[str, int | None]] = []
        self.updates: list[int] = []

    @contextmanager
    def bar(self, label, total):
        self.began.append((label, total))
        yield self

    def update(self, completed, text=""):
        self.updates.append(completed)


def opened(
    source, folder, *, warn=None, shown=None, allowed=SPLITS, given=None, shares=SHARES, **changes
):
    """Open a store; `changes` are arguments of StoreSpec or Cache."""
    spec = {"image_size": (8, 8), "in_channels": 3}
    cache = {"num_decoders": 1}
    for name, value in changes.items():
        (cache if name in ("num_bytes", "strict", "num_decoders") else spec)[name] = value
    return open_store(
        source,
        StoreSpec(**spec),
        Cache(folder, **cache),
        SplitAccess(shares, allowed, given or {}),
        bar=(shown or RecordedBar()).bar,
        warn=warn or (lambda text: pytest.fail(f"an unexpected warning: {text}")),
    )


def content(store: ImageStore) -> dict[str, bytes]:
    """Everything a store holds, by file."""
    assert store.statistics
    files = sorted(path for path in store.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(store.folder)): path.read_bytes() for path in files}


def positions(images) -> np.ndarray:
    """Where in the source images are, whose shards are of 256."""
    return images.places[:, 0] * 256 + images.places[:, 1]


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


# Which images


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


def test_sample_ends_when_it_has_read_enough(monkeypatch, numbered, memory_source):
    source = memory_source([*map(numbered, range(60))])
    indices, sizes = build.select(source, None)
    assert len(list(build._sample(source, indices, sizes, lambda: None))) == build.SAMPLE
    monkeypatch.setattr(build, "SAMPLE_BYTES", 3 * len(numbered(0)) - 10)
    assert len(list(build._sample(source, indices, sizes, lambda: None))) == 3


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


# Labels


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


# Splits


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


# Numbers of the data


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


# Stopped and disturbed


def test_interrupted_building_keeps_finished_parts(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(700)]
    stopped = [*contents[:400], KeyboardInterrupt(), *contents[401:]]
    with pytest.raises(KeyboardInterrupt):
        opened(memory_source(stopped), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("store.json"))
    source = memory_source(contents)
    store = opened(source, tmp_path / "cache")
    looked_at = set(np.linspace(0, 699, num=32).round().astype(int))
    assert set(range(256)) & set(source.reads) <= looked_at  # the first part was there
    assert set(range(256, 700)) <= set(source.reads)
    np.testing.assert_array_equal(numbers(store.images(*SPLITS)), np.arange(700))
    assert content(store) == content(opened(memory_source(contents), tmp_path / "whole"))


def run_program(program, photos, cache, *names):
    """Run the program in processes side by side, and return what they said."""
    code = PROGRAM.replace("        BEFORE", program)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, photos, cache, name], stdout=-1, text=True)
        for name in names
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    return said, [process.returncode for process in processes]


def test_killed_process_leaves_what_the_next_one_goes_on_with(tmp_path, photos):
    cache = tmp_path / "cache"
    assert run_program(KILLED, photos, cache, "one")[1] == [-9]
    (folder,) = cache.iterdir()
    assert not (folder / "store.json").exists()
    assert len(list((folder / "parts").glob("*.json"))) == 3
    said, codes = run_program("", photos, cache, "two")
    assert codes == [0]
    whole, _ = run_program("", photos, tmp_path / "whole", "three")
    assert said == whole


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


def test_two_threads_that_want_it_share_the_work(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(1000)]
    whole = opened(memory_source(contents), tmp_path / "whole")
    sources = [memory_source(contents), memory_source(contents)]
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda source: opened(source, tmp_path / "cache"), sources))
    for store in stores:
        assert content(store) == content(whole)
        np.testing.assert_array_equal(numbers(store.images(*SPLITS)), np.arange(1000))
    read = len(sources[0].reads) + len(sources[1].reads)
    assert 1000 + 2 * 32 <= read <= 1000 + 2 * 32 + 1000


def test_two_processes_that_want_it_share_the_work(tmp_path, photos):
    cache = tmp_path / "cache"
    cache.mkdir()
    said, codes = run_program(WAITING, photos, cache, "one", "two")
    assert codes == [0, 0]
    assert said[0] == said[1] != ""
    began = sorted(path.name for path in cache.glob("began-*"))
    assert [name.split("-")[1] for name in began] == list("012345")  # each part once
    assert {name.split("-")[2] for name in began} == {"one", "two"}
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [said[0].split()[0]]


# Bounded, and without a cache


def same_images(one: ImageStore, other: ImageStore) -> None:
    for split in SPLITS:
        first, second = one.images(split), other.images(split)
        np.testing.assert_array_equal(first.places, second.places)
        every = np.arange(len(first))
        np.testing.assert_array_equal(first.read(every), second.read(every))
    assert one.statistics == other.statistics
    assert one.splits == other.splits


@pytest.mark.parametrize("most", [0, 100, 256, 300])
@pytest.mark.parametrize("counted", [True, False])
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


def test_store_that_lost_pixels_is_built_anew(tmp_path, numbered, memory_source):
    contents = [numbered(number) for number in range(300)]
    store = opened(memory_source(contents), tmp_path)
    before = content(store)
    with open(store.folder / "parts" / "000001.u8", "r+b") as file:
        file.truncate(100)
    warned = []
    again = opened(memory_source(contents), tmp_path, warn=warned.append)
    assert "damaged" in warned[0]
    assert content(again) == before


# Strict, and sources that do not know their end


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


def test_non_square_images_are_stored_as_they_are_asked_for(tmp_path, noise, memory_source):
    contents = [noise(number, size=(40, 20)) for number in range(100)]
    store = opened(memory_source(contents), tmp_path, image_size=(8, 16))
    assert store.image_size == (8, 16)
    assert store.shape == (10, 19, 3)
    assert store.summary()["size"] == "8x16"
    assert store.images("supernet").read(np.arange(2)).shape == (2, 10, 19, 3)
