"""What people and broken tools put where images should be: one sentence, or an item's problem."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import os
import random
import re
import socket
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow
import pyarrow.parquet as parquet
import pytest

from masktas.data.sources import base, cards, open_source, tables, tars
from masktas.data.sources.base import MAX_BYTES
from masktas.errors import DataError, LabelError


def items_of(source):
    return [item for shard in range(source.num_shards) for item in source.stream(shard)]


def until_error(source, shard=0):
    """Return the items that come before a shard breaks off, and what it says then."""
    items = []
    try:
        for item in source.stream(shard):
            items.append(item)
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    return items, said


def tar_of(members, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(path, members, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


# Nothing there


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty.txt", r"empty\.txt: the list is empty"),
        ("empty.csv", r"empty\.csv: the list is empty"),
        ("empty.zip", r"empty\.zip: not a zip archive that can be read"),
        ("empty.parquet", r"empty\.parquet: not a parquet file that can be read"),
        ("empty.docx", r"empty\.docx: give the folder that holds the images, a list"),
    ],
)
def test_empty_file_is_refused(tmp_path, name, said):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=said):
        open_source(tmp_path / name)


def test_empty_tar_breaks_off_and_a_tar_of_nothing_gives_nothing(tmp_path):
    (tmp_path / "empty.tar").touch()
    items, said = until_error(open_source(tmp_path / "empty.tar"))
    assert not items
    assert "empty.tar" in said
    (tmp_path / "none.tar").write_bytes(tar_of([("notes.md", b"hello")]))
    assert items_of(open_source(tmp_path / "none.tar")) == []


def test_zip_without_images_is_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("readme.md", b""), ("__MACOSX/._1.png", b"mac")])
    with pytest.raises(DataError, match=r"a\.zip: no images in it"):
        open_source(path)


def test_list_of_comments_is_empty(tmp_path):
    (tmp_path / "list.txt").write_text("# nothing\n\n   \n")
    with pytest.raises(DataError, match="the list is empty"):
        open_source(tmp_path / "list.txt")


def test_list_of_which_no_file_is_there_names_the_first(tmp_path):
    (tmp_path / "list.txt").write_text("a/1.png\na/2.png\n")
    with pytest.raises(DataError, match=r"none of the files .* exists; the first is .*a/1\.png"):
        open_source(tmp_path / "list.txt")


@pytest.mark.parametrize("pattern", ["*.jpg", "**/*.png", "deep/*", "x-{0..3}.tar", "[ab].zip"])
def test_pattern_that_nothing_fits_is_refused(tmp_path, pattern):
    with pytest.raises(DataError, match=r"no image, archive or|does not exist"):
        open_source(f"{tmp_path}/{pattern}")


def test_pattern_of_several_kinds_is_refused(tmp_path, noise):
    (tmp_path / "1.png").write_bytes(noise(1))
    zip_of(tmp_path / "2.zip", [("1.png", noise(1))])
    with pytest.raises(DataError, match="several kinds of files"):
        open_source(f"{tmp_path}/*")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("cifar-10", "cifar10"), ("CIFAR100", "cifar100"), ("flowers-102", "flowers102"),
     ("oxford-iiit-pet", "oxford_iiit_pet"), ("imagnet", "imagenet")],
)  # fmt: skip
def test_near_names_of_data_sets_are_suggested(tmp_path, monkeypatch, wrong, right):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"no such file or folder\. Did you mean {right}\?"):
        open_source(wrong)


def test_near_names_of_files_are_suggested(tmp_path, noise):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"Did you mean .*/photos\?"):
        open_source(tmp_path / "potos")


def test_a_hub_name_without_its_prefix_is_told_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is hf:someone/pets"):
        open_source("someone/pets")


def test_existing_folder_wins_over_a_name(tmp_path, monkeypatch, noise):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "1.png").write_bytes(noise(1))
    assert [item.content for item in items_of(open_source("cifar10"))] == [noise(1)]


def test_existing_folder_wins_over_a_pattern(tmp_path, noise):
    folder = tmp_path / "photos [2024] {a,b}*"
    folder.mkdir()
    (folder / "1.png").write_bytes(noise(1))
    assert len(items_of(open_source(folder))) == 1


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "oxford_iiit_pet", "flowers102"])
def test_data_set_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"--root .*--download"):
        open_source(name)
    with pytest.raises(DataError, match=rf"{name}: torchvision does not find .*--download"):
        open_source(name, root=str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_imagenet_that_is_not_there_says_what_to_put_where(tmp_path):
    with pytest.raises(DataError, match=r"no images in .*/train.*--download"):
        open_source("imagenet", root=str(tmp_path))


def test_altered_cifar_files_are_not_even_opened(tmp_path):
    """They are pickles: torchvision holds each against its digest before it reads it."""
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    ran = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch", "batches.meta"]:
        (base / name).write_bytes(evil)
    with pytest.raises(DataError, match="cifar10: torchvision does not find"):
        open_source("cifar10", root=str(tmp_path))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("htps://host/a.tar", r"Protocol not known: htps, did you mean https://\?"),
        ("nope://bucket", "Protocol not known: nope"),
        ("memory://nowhere-at-all", "it does not exist, or holds no images"),
        ("memory://nowhere/list.txt", "the list cannot be read"),
        ("memory://nowhere/a.zip", r"a\.zip: cannot be read"),
        ("memory://nowhere/a.parquet", r"a\.parquet: cannot be read"),
        ("memory://nowhere/*.png", "no image, archive or .parquet file matches"),
        ("file:///nowhere-at-all", "there is no such file or folder"),
        ("zip://*.png::/nowhere.zip", "cannot be"),
    ],
)
def test_remote_places_that_are_not_there_are_one_sentence(location, said):
    with pytest.raises(DataError, match=said) as caught:
        open_source(location)
    assert "\n" not in str(caught.value)


def test_missing_protocol_package_is_named(monkeypatch):
    def refuse(location):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(DataError, match=r"package for s3 is missing: Install s3fs"):
        open_source("s3://bucket/photos")


def test_no_network_is_one_sentence(monkeypatch):
    import datasets
    import huggingface_hub

    asked = []

    def no_card(name, file, **_):  # as without a network, but without its waits
        asked.append((name, file))
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find it on the Hub")

    def unreachable(*_):
        raise ConnectionError("Couldn't reach 'a/b' on the Hub\nand more\nlines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_card)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"hf:a/b: the hub cannot be reached") as caught:
        open_source("hf:a/b")
    assert "\n" not in str(caught.value)
    assert asked == [("a/b", "README.md")]  # not a second time: each takes as long


def test_configuration_of_a_hub_data_set_is_passed_on(monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(cards, "_downloaded", lambda name: {})  # there is no network here
    monkeypatch.setattr(datasets, "load_dataset", lambda *given: asked.append(given) or {})
    for location in ("hf:owner/name", "hf:owner/name:small"):
        with pytest.raises(DataError, match="holds no rows"):
            open_source(location)
    assert asked == [("owner/name", None), ("owner/name", "small")]


# Archives


def test_member_with_a_wrong_sum_is_an_item_with_its_problem(tmp_path, noise):
    path = zip_of(tmp_path / "a.zip", [(f"{n}.png", noise(n)) for n in range(3)])
    content = bytearray(path.read_bytes())
    content[content.index(noise(1)) + 20] ^= 0xFF
    path.write_bytes(content)
    first, second, third = items_of(open_source(path))
    assert (first.content, third.content) == (noise(0), noise(2))
    assert (second.name, second.content) == ("a.zip: 1.png", None)
    assert "Bad CRC-32" in second.problem


def test_zip_bomb_is_not_unpacked(tmp_path, noise):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", noise(1))
        with archive.open("bomb.png", "w", force_zip64=True) as member:
            zeros = bytes(2**24)
            for _ in range(MAX_BYTES // len(zeros) + 1):
                member.write(zeros)
    good, bomb = items_of(open_source(path))
    assert good.content == noise(1)
    assert bomb.content is None
    assert "too many for one image" in bomb.problem


@pytest.mark.parametrize("claimed", [1000, 2**25 - 1])
def test_bzip2_member_is_not_unpacked_beyond_what_it_claims(tmp_path, noise, claimed):
    """4 KB of bzip2, which zipfile unpacks at once, can become gigabytes."""
    members = [("1.png", bytes(2**25)), ("2.png", noise(2))]
    path = zip_of(tmp_path / "a.zip", members, zipfile.ZIP_BZIP2)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = claimed.to_bytes(4, "little")
    path.write_bytes(content)
    source = open_source(path)
    tracemalloc.start()
    bomb, image = items_of(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bomb.problem == "damaged (its checksum or size is wrong)"
    assert image.content == noise(2)
    assert peak < 1.5 * claimed + 2**22


def test_encrypted_member_is_an_item_with_its_problem(tmp_path, noise):
    path = zip_of(tmp_path / "a.zip", [("1.png", noise(1))])
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    (item,) = items_of(open_source(path))
    assert (item.content, item.problem) == (None, "encrypted")


def test_unknown_compression_is_an_item_with_its_problem(tmp_path, noise):
    path = zip_of(tmp_path / "a.zip", [("1.png", noise(1))])
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + offset] = 99
    path.write_bytes(content)
    (item,) = items_of(open_source(path))
    assert item.content is None
    assert "compression" in item.problem


def test_names_that_climb_out_of_an_archive_write_nothing(tmp_path, noise):
    (tmp_path / "in").mkdir()
    members = [("../../climbed.png", noise(1)), ("/absolute.png", noise(2))]
    zipped = zip_of(tmp_path / "in" / "a.zip", members)
    (tmp_path / "in" / "a.tar").write_bytes(tar_of(members))
    for path in (zipped, tmp_path / "in" / "a.tar"):
        contents = {item.content for item in items_of(open_source(path))}
        assert contents <= {noise(1), noise(2)}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "a.zip", "in"]


def test_truncated_tar_gives_what_it_holds_and_then_names_itself(tmp_path, noise):
    whole = tar_of([(f"c/{n}.png", noise(n)) for n in range(5)])
    path = tmp_path / "shard-3.tar"
    for cut in range(512, 5 * 1024, 97):
        path.write_bytes(whole[:cut])
        source = open_source(path)
        if cut % 1024 == 0:  # between two members: nothing is missing that anybody could know of
            assert len(items_of(source)) == cut // 1024
            continue
        items, said = until_error(source)
        assert [item.content for item in items] == [noise(n) for n in range(len(items))]
        assert len(items) >= cut // 1024
        assert said.startswith("shard-3.tar: ")
        if items:
            last = len(items) - 1
            assert source.read(0, last).content == noise(last)
            assert source.labels(0) == ["c"] * len(items)


def test_truncated_shard_leaves_the_others_alone(tmp_path, noise):
    for shard in range(3):
        content = tar_of([(f"{shard}-{n}.png", noise(n)) for n in range(3)])
        (tmp_path / f"s-{shard}.tar").write_bytes(content[: 1200 if shard == 1 else None])
    source = open_source(f"{tmp_path}/s-{{0..2}}.tar")
    assert len(list(source.stream(0))) == len(list(source.stream(2))) == 3
    items, said = until_error(source, 1)
    assert len(items) == 1
    assert "s-1.tar" in said


def header_of(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("size", [2**33, 2**50, 2**62])
def test_member_that_claims_more_than_there_is_breaks_off(tmp_path, noise, size):
    good = tar_of([("1.png", noise(1))])[:1024]
    (tmp_path / "a.tar").write_bytes(good + header_of("2.png", size) + bytes(1024))
    items, said = until_error(open_source(tmp_path / "a.tar"))
    assert items[0].content == noise(1)
    assert all(item.content is None and "too many" in item.problem for item in items[1:])
    assert said.startswith("a.tar: ")


@pytest.mark.parametrize("name", ["2.png", "2.txt"])
def test_huge_member_of_a_compressed_tar_is_not_read_to_its_end(tmp_path, noise, monkeypatch, name):
    for module in (base, tars):
        monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)
    whole = tar_of([("1.png", noise(1)), (name, bytes(5 << 20)), ("3.png", noise(3))])
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole))
    items, said = until_error(open_source(tmp_path / "a.tar.gz"))
    assert items[0].content == noise(1)
    assert noise(3) not in [item.content for item in items]
    assert said == "a.tar.gz: a member claims 5,242,880 bytes."


@pytest.mark.parametrize("size", [-512, -1024, -1])
def test_member_of_negative_size_does_not_go_round_for_ever(tmp_path, noise, size):
    good = tar_of([("1.png", noise(1))])[:1024]
    (tmp_path / "a.tar").write_bytes(good + header_of("2.png", size) + bytes(1024))
    source = open_source(tmp_path / "a.tar")
    assert until_error(source)[0][0].content == noise(1)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_tar_is_only_read_forwards(compressed):
    stored = io.BytesIO(bytes(2048))
    reader = tars.Reader(io.BytesIO(bytes(2048)) if compressed else stored, stored)
    reader.read(1024)
    reader.seek(1024)
    with pytest.raises(tarfile.ReadError, match="points backwards"):
        reader.seek(512)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_header_that_claims_gigabytes_for_a_name_is_not_believed(tmp_path, kind):
    (tmp_path / "a.tar").write_bytes(header_of("x", 2**40, kind) + bytes(2048))
    items, said = until_error(open_source(tmp_path / "a.tar"))
    assert not items
    assert "claims" in said


def test_links_in_a_tar_are_items_with_a_problem(tmp_path, noise):
    buffer = io.BytesIO(tar_of([("1.png", noise(1))]))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for name, kind in (("2.png", tarfile.SYMTYPE), ("3.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    source = open_source(tmp_path / "a.tar")
    found = items_of(source)
    assert [item.content for item in found] == [noise(1), None, None]
    assert "not a regular file" in source.read(0, 1).problem


def test_sample_without_its_label_is_named(tmp_path, noise):
    members = [("1.png", noise(1)), ("1.cls", b"4"), ("2.png", noise(2))]
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    source = open_source(tmp_path / "a.tar")
    with pytest.raises(LabelError, match=r"a\.tar: 2\.png has no \.cls or \.json"):
        source.labels(0)


@pytest.mark.parametrize("key", ["label", "class", "cls"])
def test_labels_in_json_are_found_whatever_the_order(tmp_path, noise, key):
    members = [("1.json", f'{{"{key}": 4}}'.encode()), ("1.jpg.png", noise(1)),
               ("2.png", noise(2)), ("2.json", f'{{"w": 8, "{key}": 5}}'.encode())]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    assert open_source(tmp_path / "a.tar").labels(0) == [4, 5]


@pytest.mark.parametrize("content", [b"[]", b"{", b"[" * 100_000, b'{"width": 3}', b"\xff\xfe"])
def test_json_that_says_nothing_of_a_label_is_passed_by(tmp_path, noise, content):
    members = [("cat/1.png", noise(1)), ("cat/1.json", content)]
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    assert open_source(tmp_path / "a.tar").labels(0) == ["cat"]


# Tables


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


def test_archive_that_is_almost_nothing_is_not_read_to_its_end(tmp_path, monkeypatch, noise):
    monkeypatch.setattr(tars, "FREE_BYTES", 2**20)
    content = tar_of([("1.png", noise(1)), ("notes.txt", bytes(2**22)), ("2.png", noise(2))])
    (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(content))
    items, said = until_error(open_source(tmp_path / "a.tar.bz2"))
    assert [item.content for item in items] == [noise(1)]
    assert said == "a.tar.bz2: expands to more than 250 times its size."
    honest = tar_of([(f"{n}.png", random.Random(n).randbytes(2**19)) for n in range(8)])
    (tmp_path / "b.tar.bz2").write_bytes(bz2.compress(honest))
    assert len(items_of(open_source(tmp_path / "b.tar.bz2"))) == 8


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_large_members_are_held_once(tmp_path, suffix):
    size, path = 2**25, tmp_path / f"a{suffix}"
    members = [(f"{number}.png", bytes([number]) * size) for number in range(2)]
    if suffix == ".zip":
        zip_of(path, members, zipfile.ZIP_DEFLATED)
    else:
        whole = tar_of(members)
        path.write_bytes(gzip.compress(whole, 1) if suffix == ".tar.gz" else whole)
        del whole
    del members
    source = open_source(path)
    tracemalloc.start()
    for item in source.stream(0):
        assert item.num_bytes == size
        assert item.content[-1] == int(item.name.removesuffix(".png")[-1])
        del item
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * size


# Folders and lists


def test_pipes_sockets_devices_and_loops_are_not_waited_for(tmp_path, noise):
    (tmp_path / "good.png").write_bytes(noise(1))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(tmp_path)  # names of sockets must be short
        listening.bind("socket.png")
        os.chdir(here)
        problems = {item.name: item.problem for item in items_of(open_source(tmp_path))}
    assert problems == {
        "good.png": "",
        "pipe.jpg": "not a regular file",
        "socket.png": "not a regular file",
        "zero.png": "not a regular file",
        "loop.png": f"cannot be read ({os.strerror(errno.ELOOP)})",
        "gone.png": f"cannot be read ({os.strerror(errno.ENOENT)})",
    }


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.parquet", "a.txt", "photos"])
def test_pipe_given_as_the_source_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.parquet"])
def test_pipe_among_archives_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        items_of(open_source(tmp_path))


def test_links_that_go_round_are_walked_once(tmp_path, noise):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(noise(1))
    (tmp_path / "a" / "b").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "c")
    assert [item.name for item in items_of(open_source(tmp_path))] == ["a/1.png"]


def test_file_that_may_not_be_read_is_an_item_with_its_problem(tmp_path, noise, monkeypatch):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(noise(1))
    really = os.open

    def refuse(path, *rest, **more):
        if str(path).endswith("2.png"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)  # the tests may run as one who may read anything
    first, second = items_of(open_source(tmp_path))
    assert first.content == noise(1)
    assert second.problem == "cannot be read (Permission denied)"


def test_folder_that_may_not_be_listed_is_not_missed_in_silence(tmp_path, noise, monkeypatch):
    for name in ("cat/1.png", "locked/2.png", "zebra/3.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(noise(1))
    really = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = items_of(open_source(tmp_path))
    assert [item.name for item in items] == ["cat/1.png", "locked/", "zebra/3.png"]
    assert items[1].problem == "not a regular file"
    monkeypatch.setattr(os, "listdir", lambda path: (_ for _ in ()).throw(
        PermissionError(errno.EACCES, "Permission denied", path)))  # fmt: skip
    with pytest.raises(DataError, match=r"cannot be opened \(Permission denied\)"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["two\nlines.png", "Grüße 😀.png", "tab\there.png", " blank .png", "-rf.png", "a'b\"c.png",
     "\x1b[31mred.png", "right-to-left \u202egnp.png"],
)  # fmt: skip
def test_strange_names_are_read_and_shown_in_one_line(tmp_path, noise, name):
    (tmp_path / name).write_bytes(noise(1))
    (item,) = items_of(open_source(tmp_path))
    assert item.content == noise(1)
    assert item.name.isprintable()


def test_names_that_are_no_text_are_read_too(tmp_path, noise):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(raw, "wb") as file:
        file.write(noise(1))
    source = open_source(tmp_path)
    (item,) = items_of(source)
    assert item.content == noise(1)
    item.name.encode()
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\n")
    (item,) = items_of(open_source(tmp_path / "list.txt"))
    assert item.content == noise(1)


@pytest.mark.parametrize(
    ("lines", "label"),
    [
        ("{0}\r\n{1}\r\n", None),
        ("\ufeff{0}\n{1}", None),
        ("# comment\n\n{0}\n   \n{1}\n", None),
        ("{0}\tcat\n{1}\tcat\n", "cat"),
        ("{0},cat\n{1}, cat\n", "cat"),
        ("{0} cat\n{1}  cat\n", "cat"),
        ("0\t7\t{0}\n1\t7\t{1}\n", "7"),  # as MXNet has it
        ("image,label\n{0},cat\n{1},cat\n", "cat"),
        ("./{0}\n./{1}\n", None),
    ],
)
def test_lists_are_read_as_people_write_them(tmp_path, noise, lines, label):
    names = ["one, two.png", "three four.png"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(noise(number))
    (tmp_path / "list.txt").write_text(lines.format(*names), newline="")
    source = open_source(tmp_path / "list.txt")
    assert [item.content for item in items_of(source)] == [noise(0), noise(1)]
    if label is not None:
        assert source.labels(0) == [label, label]


def test_list_in_windows_wide_characters_is_read(tmp_path, noise):
    (tmp_path / "größe.png").write_bytes(noise(1))
    (tmp_path / "list.csv").write_bytes('"größe.png";x\r\n'.replace(";", ",").encode("utf-16"))
    assert [item.content for item in items_of(open_source(tmp_path / "list.csv"))] == [noise(1)]


def test_missing_and_impossible_files_of_a_list_are_items_with_a_problem(tmp_path, noise):
    (tmp_path / "1.png").write_bytes(noise(1))
    (tmp_path / "list.txt").write_text("gone.png\n1.png\nzero\0byte.png\n" + "x" * 5000 + ".png\n")
    found = items_of(open_source(tmp_path / "list.txt"))
    assert [item.content is not None for item in found] == [False, True, False, False]
    assert all(item.problem for item in found if item.content is None)


def test_list_with_some_labels_names_the_image_without(tmp_path, noise):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(noise(number))
    (tmp_path / "list.tsv").write_text("0.png\tcat\n1.png\n2.png\tdog\n")
    with pytest.raises(LabelError, match=r"1\.png has no label"):
        open_source(tmp_path / "list.tsv").labels(0)


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{1..99999}{1..99999}.tar"])
def test_braces_that_stand_for_too_many_are_refused(tmp_path, pattern):
    with pytest.raises(DataError, match="expands to more than 100,000 files"):
        open_source(f"{tmp_path}/{pattern}")


# Any bytes at all


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
