"""Damage to a store is noticed; a disk that cannot be read for a moment costs nothing."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from masktas import files as atomic
from masktas.data.splits import SPLITS
from masktas.data.store import parts
from masktas.data.store.image_store import ImageStore
from masktas.errors import DataError
from stores import opened

FILES = ("digests.npy", "places.npy", "declared.npy", "checksums.npy")


def pixels(store: ImageStore) -> np.ndarray:
    images = store.images(*SPLITS)
    return images.read(np.arange(len(images)))


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The inode and content of every file."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.read_bytes()) for path in found}


@pytest.fixture
def source(noise, memory_source):
    """A source of 300 images in two shards."""
    return memory_source([noise(number) for number in range(300)])


@pytest.fixture
def folder(tmp_path, source):
    """The folder of an intact store of it."""
    warned = []
    store = opened(source, tmp_path, warn=warned.append)
    assert store.statistics
    assert warned == []
    return store.folder


def test_inverted_pixels_are_noticed_and_decoded_again(tmp_path, source, folder):
    path = folder / "parts/000000.u8"
    content = np.fromfile(path, dtype=np.uint8)
    expected = pixels(opened(source, tmp_path))
    content[: len(content) // 2] ^= 255
    content.tofile(path)
    warned, source.reads[:] = [], []
    store = opened(source, tmp_path, warn=warned.append)
    np.testing.assert_array_equal(pixels(store), expected)
    assert source.reads == list(range(128))
    assert len(warned) == 1
    assert "part 0 are damaged" in warned[0]
    assert str(folder) in warned[0]
    np.testing.assert_array_equal(pixels(store), expected)
    assert len(warned) == 1


def test_a_single_flipped_bit_of_a_pixel_is_noticed(tmp_path, source, folder):
    expected = pixels(opened(source, tmp_path))
    path = folder / "parts/000001.u8"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    warned = []
    np.testing.assert_array_equal(pixels(opened(source, tmp_path, warn=warned.append)), expected)
    assert "part 1 are damaged" in warned[0]


def test_damaged_pixels_whose_file_is_gone_are_refused(tmp_path, source, folder):
    (folder / "parts/000000.u8").write_bytes(bytes(256 * 192))
    store = opened(source, tmp_path, warn=[].append)
    source.contents[5] = None
    with pytest.raises(DataError, match=r"memory/5: gone, though it was decoded before"):
        store.images(*SPLITS).read(np.array([5]))


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_of_an_array_is_noticed(tmp_path, source, folder, name):
    """Splits depend on the digests, labels on the places: both must be those that were decoded."""
    whole = opened(source, tmp_path)
    content = (folder / name).read_bytes()
    for number, position in enumerate((10, 140, len(content) // 2, len(content) - 1), start=1):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (folder / name).write_bytes(damaged)
        warned = []
        again = opened(source, tmp_path, warn=warned.append)
        aside = folder.with_name(f"{folder.name}.damaged-{number}")
        assert len(warned) == 1
        assert aside.name in warned[0]
        assert (aside / name).read_bytes() == damaged
        assert again.splits == whole.splits
        assert (folder / name).read_bytes() == content


@pytest.mark.parametrize("name", [*FILES, "store.json", "parts/000001.u8"])
@pytest.mark.parametrize("left", [0.0, 0.5, None])
def test_truncated_and_missing_files_are_decoded_again(tmp_path, source, folder, name, left):
    before = {path: content for path, (_, content) in files(folder).items()}
    path = folder / name
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    warned = []
    opened(source, tmp_path, warn=warned.append)
    after = {path: content for path, (_, content) in files(folder).items()}
    assert {path: after.get(path, content) for path, content in before.items()} == before
    if (name, left) != ("store.json", None):  # as a killed process leaves it: nothing is damaged
        assert f"{folder.name}.damaged-1" in warned[0]


@pytest.mark.parametrize("content", ["", "{}", "null", '{"mean": 1}'])
def test_damaged_statistics_are_measured_again(tmp_path, source, folder, content):
    path = next(folder.glob("statistics-*.json"))
    whole = path.read_text()
    path.write_text(content)
    warned = []
    assert opened(source, tmp_path, warn=warned.append).statistics
    assert path.read_text() == whole
    assert warned == []


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("name", [*FILES, "store.json"])
def test_an_io_error_leaves_the_store_as_it_is(
    tmp_path, source, folder, monkeypatch, name, code
):  # fmt: skip
    before = files(tmp_path)
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == name:
            raise OSError(code, os.strerror(code))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DataError, match=os.strerror(code)) as caught:
        opened(source, tmp_path)
    assert "Nothing was deleted" in str(caught.value)
    monkeypatch.undo()
    assert files(tmp_path) == before
    source.reads.clear()
    opened(source, tmp_path)
    assert source.reads == []


def test_an_open_store_is_read_on_when_another_process_sets_it_aside(tmp_path, source, folder):
    """Parts are mapped when they are first read, which may be after the rename."""
    store = opened(source, tmp_path)
    first = store.images(*SPLITS).read(np.arange(3))
    content = bytearray((folder / "places.npy").read_bytes())
    content[140] ^= 1
    (folder / "places.npy").write_bytes(content)
    source.contents[290] = b"no image"  # in the part that is not mapped yet
    again = opened(source, tmp_path, warn=[].append)
    assert len(again.images(*SPLITS)) == 299
    read = pixels(store)
    assert len(read) == 300
    np.testing.assert_array_equal(read[:3], first)


@pytest.mark.parametrize("sync_bytes", [parts.SYNC_BYTES, 192])
def test_pixels_are_on_the_disk_before_the_record_that_speaks_of_them(
    tmp_path, source, monkeypatch, sync_bytes
):
    """A power cut must not leave a record over missing pixels: the order of calls is the proof."""
    monkeypatch.setattr(parts, "SYNC_BYTES", sync_bytes)
    calls, sizes = [], {}
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append(("sync", Path(path).name))
        sizes[Path(path).name] = os.fstat(descriptor).st_size
        fsync(descriptor)

    def replaced(start, target):
        calls.append(("replace", Path(target).name))
        replace(start, target)

    for module in (atomic, parts):
        monkeypatch.setattr(module.os, "fsync", synced)
        monkeypatch.setattr(module.os, "replace", replaced)
    opened(source, tmp_path)
    order = [call for call in calls if not call[1].endswith(".tmp")]
    for number, images in ((0, 256), (1, 44)):
        synced_at = [at for at, call in enumerate(order) if call == ("sync", f"{number:06d}.u8")]
        assert (len(synced_at) > 1) == (sync_bytes == 192)  # in the background too
        assert synced_at[-1] < order.index(("replace", f"{number:06d}.json"))
        assert sizes[f"{number:06d}.u8"] == images * 192  # all of them were flushed before
    for name in FILES:
        assert order.index(("replace", name)) < order.index(("replace", "store.json"))
    assert calls.count(("sync", "parts")) == 2


def test_an_error_of_the_disk_in_the_background_leaves_no_record(tmp_path, source, monkeypatch):
    """The system reports it to one sync only, which is not the last one."""
    monkeypatch.setattr(parts, "SYNC_BYTES", 192)
    fsync, failed = os.fsync, []

    def fails_once(descriptor):
        if not failed and os.readlink(f"/proc/self/fd/{descriptor}").endswith(".u8"):
            failed.append(descriptor)
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(parts.os, "fsync", fails_once)
    with pytest.raises(DataError, match=r"cannot be cached \(Input/output error\)"):
        opened(source, tmp_path)
    assert failed
    assert not list(tmp_path.rglob("0*.json"))


def test_checksums_are_those_of_the_pixels(folder):
    buffer = io.BytesIO((folder / "checksums.npy").read_bytes())
    checksums = np.load(buffer)
    assert checksums.dtype == np.uint32
    assert len(set(checksums.tolist())) == 300
