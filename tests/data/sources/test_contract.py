"""Every kind of source keeps the same promises: one test each, over all kinds."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dataset_kinds import saved_data_set
from masktas.data.sources import (
    Item,
    PythonSource,
    Source,
    canonical,
    cifar,
    files,
    hub,
    open_source,
    python,
    tables,
    zips,
)
from masktas.errors import DataError
from source_kinds import archive_zip, folder, list_of_words, table, table_of_plain_bytes, webdataset
from source_maker import COUNT, KINDS, Case, Maker, label


@pytest.fixture(params=KINDS)
def case(request, tmp_path, noise, monkeypatch) -> Case:
    """One of the kinds, cut into small shards."""
    monkeypatch.setattr(files, "FILES_PER_SHARD", 4)
    monkeypatch.setattr(zips, "MEMBERS_PER_SHARD", 4)
    for module in (tables, hub, cifar, python):
        monkeypatch.setattr(module, "ROWS_PER_SHARD", 4)
    monkeypatch.setattr(hub, "ROWS_AT_ONCE", 3)
    return KINDS[request.param](Maker(tmp_path, noise, monkeypatch))


def streamed(source: Source) -> list[list[Item]]:
    return [list(source.stream(shard)) for shard in range(source.num_shards)]


def key(item: Item) -> tuple[Any, ...]:
    """An item as something that can be compared."""
    content = item.content
    if isinstance(content, np.ndarray):
        content = (content.shape, content.dtype, content.tobytes())
    return item.name, content, item.is_test, item.problem


def keys(shards: list[list[Item]]) -> list[list[tuple[Any, ...]]]:
    return [[key(item) for item in shard] for shard in shards]


def test_source_keeps_every_promise(case, tmp_path, monkeypatch):
    source = open_source(case.location, **case.options)
    assert type(source) is case.kind
    assert source.location
    shards = streamed(source)
    items = list(itertools.chain.from_iterable(shards))

    # all images, each with content, named differently, and the declared test images
    assert len(items) == case.count
    assert not [item.problem for item in items if item.problem or item.content is None]
    assert len({item.name for item in items}) == case.count
    assert len({key(item)[1] for item in items}) == COUNT
    assert sum(item.is_test for item in items) == case.tests

    # sizes, in one pass or in another
    assert source.sizes() == ([len(shard) for shard in shards] if case.sized else None)
    assert max(map(len, shards)) <= (case.count if not case.sized else 4)

    # the same again, in any order, from any thread
    assert keys(streamed(source)) == keys(shards)
    if case.random:
        where = [(s, i) for s, shard in enumerate(shards) for i in range(len(shard))]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda at: key(source.read(*at)), reversed(where)))
        assert found[::-1] == [key(item) for item in items]
        with pytest.raises(IndexError):
            source.read(0, len(shards[0]))
    else:
        with pytest.raises(DataError, match="must fit the cache"):
            source.read(0, 0)

    # one label an image
    labels = [source.labels(shard) for shard in range(source.num_shards)]
    assert [len(some) for some in labels] == [len(shard) for shard in shards]
    assert len(set(itertools.chain.from_iterable(labels))) == 2

    # the same in another process and another working directory
    fingerprint = source.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint == source.fingerprint()
    if case.kind is not PythonSource:
        location = canonical(case.location)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        again = open_source(location, **case.options)
        assert keys(streamed(again)) == keys(shards)
        assert again.fingerprint() == fingerprint


def test_labels_belong_to_their_images(tmp_path, noise, monkeypatch):
    make = Maker(tmp_path, noise, monkeypatch)
    expected = {noise(number): label(number) for number in range(COUNT)}
    for build in (list_of_words, archive_zip, webdataset, table, saved_data_set):
        source = open_source(build(make).location)
        for shard in range(source.num_shards):
            found = zip(source.stream(shard), source.labels(shard), strict=True)
            assert all(expected[item.content] == value for item, value in found)


PROGRAM = """
import hashlib, json, sys
from masktas.data.sources import open_source
for location, options in json.loads(sys.argv[1]):
    source = open_source(location, **options)
    digest = hashlib.sha256()
    for shard in range(source.num_shards):
        for item in source.stream(shard):
            digest.update(item.name.encode() + item.content)
    print(digest.hexdigest())
"""


def test_another_process_reads_the_same(tmp_path, noise, monkeypatch):
    import hashlib

    make = Maker(tmp_path, noise, monkeypatch)
    monkeypatch.chdir(tmp_path)
    arguments, expected = [], []
    for build in (folder, list_of_words, archive_zip, webdataset, table_of_plain_bytes):
        case = build(make)
        location = str(case.location).replace(f"{tmp_path}/", "")  # relative, as people write
        source = open_source(location, **case.options)
        arguments.append((canonical(location), case.options))
        digest = hashlib.sha256()
        for item in itertools.chain.from_iterable(streamed(source)):
            digest.update(item.name.encode() + item.content)
        expected.append(digest.hexdigest())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected
