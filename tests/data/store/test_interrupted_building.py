"""Building a store that is interrupted, killed, damaged or done by two processes at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from masktas.data.splits import SPLITS
from masktas.errors import DataError
from stores import content, numbers, opened

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
