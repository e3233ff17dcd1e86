"""Tables of many columns and huge groups of rows, and damage of any kind to archives and tables."""

from __future__ import annotations

import gzip
import io
import random
import re
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pyarrow
import pyarrow.parquet as parquet
import pytest

from archives import items_of, tar_of
from masktas.data.sources import open_source, tables
from masktas.errors import DataError, LabelError

# --- tables


def test_several_columns_of_images_must_be_told_apart(tmp_path, noise):
    table = pyarrow.table({"left": [noise(1)], "right": [noise(2)]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"several columns .*left, right.*image_column"):
        open_source(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column rigth .*Did you mean right"):
        open_source(tmp_path / "a.parquet", image_column="rigth")
    source = open_source(tmp_path / "a.parquet", image_column="right")
    assert source.read(0, 0).content == noise(2)


def test_classes_that_the_file_names_are_labels_even_if_two_share_a_name(tmp_path, noise):
    import json

    info = {"info": {"features": {"label": {"names": ["crane", "dog", "crane"]}}}}
    table = pyarrow.table({"image": [noise(n) for n in range(3)], "label": [2, 1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").labels(0) == ["crane (2)", "dog", "crane (0)"]
    hidden = table.set_column(1, "label", [[2, -1, 0]])
    parquet.write_table(hidden, tmp_path / "a.parquet")
    with pytest.raises(LabelError, match="some images have no label"):
        open_source(tmp_path / "a.parquet").labels(0)


def test_huge_row_group_is_read_a_few_rows_at_a_time(tmp_path):
    rows, size = 200, 2**18
    writer = random.Random(0)
    table = pyarrow.table({"image": [writer.randbytes(size) for _ in range(rows)]})
    parquet.write_table(table, tmp_path / "a.parquet", write_batch_size=4)
    del table
    source = open_source(tmp_path / "a.parquet")
    assert source.sizes() == [rows]
    before = pyarrow.total_allocated_bytes()
    peak = 0
    for item in source.stream(0):
        assert item.content is not None
        peak = max(peak, pyarrow.total_allocated_bytes() - before)
    assert peak < rows * size / 3


def test_value_of_many_rows_is_copied_for_one_row_at_a_time(tmp_path, monkeypatch):
    size, rows = 2**22, 64
    column = pyarrow.DictionaryArray.from_arrays([0] * rows, [bytes([1]) * size])
    parquet.write_table(
        pyarrow.table({"image": column}), tmp_path / "a.parquet",
        compression="zstd", store_schema=False, dictionary_pagesize_limit=2**30,
    )  # fmt: skip
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    source = open_source(tmp_path / "a.parquet")
    before, peak = pyarrow.total_allocated_bytes(), 0
    for item in source.stream(0):
        assert item.num_bytes == size
        peak = max(peak, pyarrow.total_allocated_bytes() - before)
    assert peak < 6 * size

    monkeypatch.setattr(tables, "CACHE_BYTES", 4 * size)
    tracemalloc.start()
    assert source.read(0, rows - 1).name == f"a.parquet row {rows - 1}"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * size
    assert not source._cache
    assert source.read(0, 1).name == "a.parquet row 1"  # known to be too large for the cache


def test_row_groups_that_fit_are_read_once(tmp_path, monkeypatch, noise, write_table):
    source = open_source(write_table(tmp_path / "a.parquet", [noise(0), None, noise(2)]))
    opened = []
    monkeypatch.setattr(source, "_open", lambda number, real=source._open: (
        opened.append(number) or real(number)
    ))  # fmt: skip
    for _ in range(2):
        read = [source.read(0, row) for row in range(3)]
        assert read == items_of(source)
    assert len(opened) == 3  # once to read by row, and twice to stream


def test_row_group_too_large_for_the_cache_is_read_on(tmp_path, monkeypatch, noise, write_table):
    source = open_source(write_table(tmp_path / "a.parquet", [noise(row) for row in range(40)]))
    monkeypatch.setattr(tables, "CACHE_BYTES", 5 * len(noise(0)))
    opened, converted = [], []
    monkeypatch.setattr(source, "_open", lambda number, real=source._open: (
        opened.append(number) or real(number)
    ))  # fmt: skip
    monkeypatch.setattr(source, "_item", lambda file, row, cell, real=source._item: (
        converted.append(row) or real(file, row, cell)
    ))  # fmt: skip
    wanted = [3, 4, 5, 17, 38, 39]
    assert [source.read(0, row).content for row in wanted] == [noise(row) for row in wanted]
    assert len(opened) == 2  # once to see that it is too large
    assert converted[-len(wanted) :] == wanted
    assert source.read(0, 7).content == noise(7)
    assert len(opened) == 3
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(lambda row: source.read(0, row).content, range(40)))
    assert read == [noise(row) for row in range(40)]


def test_row_group_that_cannot_be_read_on_is_read_again(tmp_path, monkeypatch, noise, write_table):
    source = open_source(write_table(tmp_path / "a.parquet", [noise(row) for row in range(9)]))
    monkeypatch.setattr(tables, "CACHE_BYTES", 5 * len(noise(0)))
    assert source.read(0, 2).content == noise(2)
    with monkeypatch.context() as broken:
        broken.setattr(tables.Cursor, "cell", lambda cursor, row: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            source.read(0, 4)
    assert source.read(0, 4).content == noise(4)


def test_rows_of_a_data_set_are_copied_one_at_a_time(tmp_path):
    import datasets

    size, rows = 2**20, 16
    table = datasets.Dataset.from_dict({"image": [bytes([row]) * size for row in range(rows)]})
    table = table.cast_column("image", datasets.Value("binary"))
    table.save_to_disk(str(tmp_path / "saved"))
    del table
    source = open_source(tmp_path / "saved")
    tracemalloc.start()
    for row, item in enumerate(source.stream(0)):
        assert item.content == bytes([row]) * size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert row == rows - 1
    assert peak < 5 * size


# --- any bytes at all


@pytest.fixture(scope="module")
def whole(noise):
    """A small archive or table of each kind."""
    members = [(f"c{n % 2}/{'x' * 120 * (n == 2)}{n}.png", noise(n)) for n in range(4)]
    members += [(name.replace("png", "cls"), b"3") for name, _ in members]
    zipped, table = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    rows = [{"bytes": noise(n), "path": ""} for n in range(8)]
    columns = pyarrow.table({"image": rows, "label": list(range(8))})
    parquet.write_table(columns, table, row_group_size=3)
    plain = tar_of(members, format=tarfile.PAX_FORMAT)
    return {
        "zip": zipped.getvalue(),
        "tar": plain,
        "tgz": gzip.compress(plain),
        "tar.zst": pyarrow.compress(plain, "zstd", asbytes=True),
        "parquet": table.getvalue(),
    }


def damaged(content, rng):
    """Cut off, overwritten here and there, or with a piece replaced or taken out."""
    content = bytearray(content)
    how = rng.random()
    if how < 0.2:
        return content[: rng.randrange(len(content))]
    if how < 0.8:
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            content[rng.randrange(len(content))] = rng.choice([0, 255, rng.randrange(256)])
        return content
    start, size = rng.randrange(len(content)), rng.randrange(1, 64)
    content[start : start + size] = rng.randbytes(size) if how < 0.9 else b""
    return content


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz", "tar.zst", "parquet"])
def test_damage_of_any_kind_ends_in_one_sentence(tmp_path, whole, suffix):
    rng = random.Random(suffix)
    path = tmp_path / f"a.{suffix}"
    said = []
    for _ in range(250):
        path.write_bytes(damaged(whole[suffix], rng))
        try:
            source = open_source(path)
            for shard in range(source.num_shards):
                for index, item in enumerate(source.stream(shard)):
                    again = source.read(shard, index)
                    assert (again.name, again.content) == (item.name, item.content)
                source.labels(shard)
        except DataError as error:
            said.append(str(error))
    assert [one for one in said if not re.fullmatch(r".*\ba\.\w+.*", one)] == []  # one line
    assert 10 < len(said) < 250
