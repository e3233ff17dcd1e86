"""Decoding in processes of its own: in order, and whatever an image does to the process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

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
    decoder = DecodeWorker(memory=700 << 20)
    large, small = decoder.decode(
        items_of([np.zeros((6000, 6000, 3), dtype=np.float32), noise(1)]), PIXELS
    )
    assert large.problem
    assert small.pixels is not None
    decoder.close()


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
