"""Broken and hostile archives: an item's problem or one sentence, and little memory."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import tarfile
import tracemalloc
import zipfile

import pytest

from archives import items_of, tar_of, until_error, zip_of
from masktas.data.sources import base, open_source, tars
from masktas.data.sources.base import MAX_BYTES
from masktas.errors import LabelError


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
