"""Decoding in processes of its own: in order, and whatever an image does to the process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from masktas.data.decode import pool as module
from masktas.data.decode.image import decode
from masktas.data.decode.pool import DecodePool, DecodeSpec, DecodeWorker
from masktas.data.sources import Item
from masktas.errors import DataError, MasktasError

PIXELS = DecodeSpec((8, 8), 3)


@pytest.fixture
def decoder():
    one = DecodeWorker(timeout=20)
    yield one
    one.close()


def items_of(contents) -> list[Item]:
    return [Item(f"image {number}", content) for number, content in enumerate(contents)]


def pid_of(decoder: DecodeWorker) -> int:
    return decoder._running[0].pid


def test_pixels_and_digests_are_those_of_decoding_here(decoder, noise):
    contents = [noise(number, size=(20, 13)) for number in range(5)]
    wanted = DecodeSpec((10, 6), 3)
    for content, found in zip(contents, decoder.decode(items_of(contents), wanted), strict=True):
        np.testing.assert_array_equal(
            found.pixels, decode(content, size=(10, 6), in_channels=3, white=None)
        )
        assert len(found.digest) == 32
        assert found.problem == ""
    digests = [one.digest for one in decoder.decode(items_of([*contents, contents[0]]), wanted)]
    assert len(set(digests)) == 5
    assert digests[0] == digests[-1]


def test_arrays_are_decoded_as_well_and_named_by_type_and_shape(decoder):
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    other = pixels.reshape(16, 4, 3)
    found, turned, _ = decoder.decode(items_of([pixels, other, pixels[::-1]]), PIXELS)
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.digest != turned.digest


def test_bad_images_come_back_with_a_reason_and_the_others_are_decoded(decoder, numbered):
    items = items_of([numbered(1), b"no image", b"", numbered(2)[:20], numbered(3)])
    items.insert(2, Item("gone", None, problem="the disk ate it"))
    items.insert(3, Item("objects", np.array([[None]])))
    found = decoder.decode(items, PIXELS)
    assert [one.pixels is None for one in found] == [False, True, True, True, True, True, False]
    assert all(one.problem for one in found[1:-1])
    assert found[2].problem == "the disk ate it"
    assert found[-1].pixels is not None
    assert found[-1].pixels[0, 0].tolist() == [0, 3, 0]


def test_dimensions_come_without_decoding(decoder, noise, claiming):
    items = items_of([noise(0, size=(20, 13)), b"no image", noise(1, size=(5, 7))])
    assert decoder.dimensions(items) == [(13, 20), None, (7, 5)]


def test_image_larger_than_any_is_not_sent(decoder, monkeypatch, numbered):
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    large, small = decoder.decode(items_of([bytes(1001), numbered(5)]), PIXELS)
    assert "too many" in large.problem
    assert small.pixels is not None


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSEGV])
def test_decoder_that_dies_costs_one_image(decoder, noise, by):
    decoder.decode(items_of([noise(0)]), PIXELS)
    first = pid_of(decoder)
    os.kill(first, signal.SIGSTOP)  # busy with the first image, until it dies of it

    def end() -> None:
        os.kill(first, by)
        os.kill(first, signal.SIGCONT)

    threading.Timer(0.2, end).start()
    found = decoder.decode(items_of([noise(number) for number in range(5)]), PIXELS)
    assert found[0].problem == f"decoding it crashes (exit code {-by})"
    assert [one.problem for one in found[1:]] == [""] * 4
    assert pid_of(decoder) != first


def test_decoder_that_hangs_costs_one_image(noise):
    decoder = DecodeWorker(timeout=0.7)
    decoder.decode(items_of([noise(0)]), PIXELS)
    first = pid_of(decoder)
    os.kill(first, signal.SIGSTOP)
    found = decoder.decode(items_of([noise(number) for number in range(3)]), PIXELS)
    assert "longer than 0.7 seconds" in found[0].problem
    assert [one.problem for one in found[1:]] == ["", ""]
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    decoder.close()


def test_image_that_takes_too_much_memory_is_refused(noise):
    # below the largest array that is decoded, so that only the limit of the process refuses it
    items = items_of([np.zeros((5700, 5700, 3), dtype=np.float32), noise(1)])
    decoder = DecodeWorker(memory=700 << 20)
    large, small = decoder.decode(items, PIXELS)
    assert "memory" in large.problem
    assert small.pixels is not None
    decoder.close()


def test_largest_array_is_decoded_within_the_memory_of_a_decoder(decoder):
    (found,) = decoder.decode(items_of([np.zeros((5700, 5700, 3), dtype=np.float32)]), PIXELS)
    assert found.pixels is not None


def test_large_images_are_decoded_like_small_ones(decoder, monkeypatch, noise):
    turned = np.arange(40 * 30 * 3, dtype=">u2").reshape(40, 30, 3)[::-1]
    contents = [noise(0), noise(1, size=(90, 80)), b"no image" * 100, noise(2), turned, noise(3)]
    wanted = decoder.decode(items_of(contents), PIXELS)
    sizes = decoder.dimensions(items_of(contents))
    monkeypatch.setattr(module, "PIPED_BYTES", 700)
    assert [module._is_piped(item) for item in items_of(contents)].count(True) == 3
    assert decoder.dimensions(items_of(contents)) == sizes
    for one, other in zip(wanted, decoder.decode(items_of(contents), PIXELS), strict=True):
        assert (one.digest, one.problem) == (other.digest, other.problem)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_decoder_that_stops_reading_a_large_image_costs_that_image(monkeypatch, noise):
    decoder = DecodeWorker(timeout=0.7)
    decoder.decode(items_of([noise(0)]), PIXELS)
    monkeypatch.setattr(module, "PIPED_BYTES", 1 << 20)
    os.kill(pid_of(decoder), signal.SIGSTOP)
    large, small = decoder.decode(items_of([bytes(1 << 21), noise(1)]), PIXELS)
    assert "longer than 0.7 seconds" in large.problem
    assert small.pixels is not None
    decoder.close()


def test_shared_memory_of_many_images_is_given_back(decoder, noise):
    contents = [noise(0), *(bytes(module.PIPED_BYTES) for _ in range(4))]
    for ask in (lambda: decoder.decode(items_of(contents), PIXELS),
                lambda: decoder.dimensions(items_of(contents))):  # fmt: skip
        ask()
        size = os.fstat(decoder._shared).st_size
        assert size <= module.SHARED_BYTES + len(contents) * PIXELS.num_bytes
    assert decoder.decode(items_of(contents), PIXELS)[0].pixels is not None


def test_large_image_never_reaches_the_shared_memory(decoder):
    decoder.decode(items_of([bytes(module.PIPED_BYTES + 1)]), PIXELS)
    assert os.fstat(decoder._shared).st_size < 1 << 20


def test_decoder_that_cannot_be_started_says_why(monkeypatch, noise):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "executable", sys.executable)
    decoder = DecodeWorker(memory=1 << 20)
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(MasktasError, match="cannot be started"):
        decoder.decode(items_of([noise(0)]), PIXELS)
    decoder.close()


def test_many_come_back_in_order(numbered):
    with DecodePool(3) as decoders:
        items = items_of([numbered(number) for number in range(300)])
        found = list(decoders.each(iter(items), PIXELS))
    assert [item.name for item, _ in found] == [item.name for item in items]
    for number, (_, decoded) in enumerate(found):
        assert decoded.pixels is not None
        assert decoded.pixels[0, 0].tolist() == [number // 256, number % 256, 0]


def test_only_a_little_is_read_ahead(numbered):
    read = []

    def endless():
        for number in range(10**6):
            read.append(number)
            yield Item(str(number), numbered(number % 256))

    with DecodePool(2) as decoders:
        found = decoders.each(endless(), PIXELS)
        next(found)
        assert len(read) <= 2 * 3 * module.CHUNK_IMAGES + 1
        found.close()


@pytest.mark.parametrize("way", ["each", "dimensions"])
def test_bytes_read_ahead_are_bounded(monkeypatch, way):
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(module, "IN_FLIGHT_BYTES", 1)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    counts = []

    class Pixels(np.ndarray):
        __hash__ = object.__hash__

    def photos():
        for number in range(30):
            counts.append(len(alive))
            content = np.zeros((9, 9, 3), np.uint8).view(Pixels)
            alive.add(content)
            yield Item(str(number), content)
            del content

    with DecodePool(2) as decoders:
        found = list(getattr(decoders, way)(photos(), *[PIXELS] * (way == "each")))
    assert len(found) == 30
    assert max(counts) <= 1  # a thread may hold the one that it has just decoded


def test_items_come_back_without_their_content(numbered):
    with DecodePool(1) as decoders:
        for item, decoded in decoders.each(items_of([numbered(1), b""]), PIXELS):
            assert item.content is None
            assert decoded.pixels is not None or decoded.problem


def test_what_came_before_an_error_of_the_source_is_not_lost(numbered):
    def ends_early():
        yield from items_of([numbered(number) for number in range(21)])
        raise DataError("the file ends here")

    with DecodePool(2) as decoders:
        decoded = decoders.each(ends_early(), PIXELS)
        found = list(itertools.islice(decoded, 21))
        with pytest.raises(DataError, match="ends here"):
            next(decoded)
    assert [item.name for item, _ in found] == [f"image {number}" for number in range(21)]


def test_decoders_end_with_their_parent(noise):
    program = (
        "import os, signal\n"
        "from masktas.data.decode.pool import DecodeWorker, DecodeSpec\n"
        "from masktas.data.sources import Item\n"
        "import numpy as np\n"
        "one = DecodeWorker()\n"
        "one.decode([Item('a', np.zeros((8, 8), np.uint8))], DecodeSpec((8, 8), 3))\n"
        "print(one._running[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")
