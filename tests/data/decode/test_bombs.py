"""Files made to take memory or time: each is decoded or refused in a process with little room."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from damaged import ADDRESS_SPACE, chunk, encode, photo, tiff

CHILD = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from damaged import peak
from masktas.data.decode.image import decode
from masktas.errors import DataError
import tifffile
resource.setrlimit(resource.RLIMIT_AS, ({room}, {room}))
start = peak()
for argument in sys.argv[1:]:
    path, channels = argument.split("=")
    content = Path(path).read_bytes()
    began = time.perf_counter()
    try:
        pixels = decode(content, size=(32, 32), in_channels=int(channels))
        outcome = "decoded" if pixels.shape == (32, 32, int(channels)) else "wrong"
    except DataError as error:
        outcome = f"refused: {{error}}"
    grown = peak() - start
    print(json.dumps([path, outcome, time.perf_counter() - began, grown]), flush=True)
"""
TESTS = str(Path(__file__).parents[2])
PNG = b"\x89PNG\r\n\x1a\n"


def head(width: int, height: int, kind: int = 2) -> bytes:
    return PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))


def zeros(count: int) -> bytes:
    """Deflate that many zeros, without holding them."""
    packer = zlib.compressobj(1)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def png(width: int, height: int, kind: int, samples: int, extra: bytes = b"") -> bytes:
    """Encode an image of zeros."""
    body = chunk(b"IDAT", zeros(height * (1 + width * samples)))
    return head(width, height, kind) + extra + body + chunk(b"IEND", b"")


def vp8x(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sizes
    rest = encode(photo(), "webp")[12:]
    return b"RIFF" + struct.pack("<I", len(body) + len(rest)) + body + rest


def tags(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """Write a TIFF of one directory: tag, type, count, value."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following)


def plain_tags(width: int, height: int, samples: int = 1) -> list[tuple[int, int, int, int]]:
    return [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (277, 3, 1, samples), (273, 4, 1, 8), (279, 4, 1, 100), (278, 4, 1, height),
    ]  # fmt: skip


def deflated_bands(real: int) -> bytes:
    """Write a TIFF of five bands whose strip unpacks to far more than it should."""
    whole = tiff(
        np.zeros((16, 16, 5), np.uint8),
        photometric="minisblack", planarconfig="contig", compression="zlib",
    )  # fmt: skip
    piece = zeros(real)
    edited = bytearray(whole + piece)
    at, count = struct.unpack("<I", whole[4:8])[0], 0
    count = struct.unpack("<H", whole[at : at + 2])[0]
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag = struct.unpack("<H", whole[entry : entry + 2])[0]
        value = {273: len(whole), 279: len(piece)}.get(tag)
        if value is not None:
            edited[entry : entry + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(edited)


def endless_scans(side: int, number: int) -> bytes:
    """Repeat the last scan of a progressive JPEG."""
    whole = encode(Image.new("RGB", (side, side)), "jpeg", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * number + whole[-2:]


def giant_jpeg() -> bytes:
    whole = bytearray(encode(photo(), "jpeg"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(whole)


def moving_gif(number: int) -> bytes:
    """Repeat the second frame of an animation."""
    frames = [Image.fromarray(photo(16, seed)[:, :16]) for seed in range(2)]
    whole = encode(frames[0], "gif", save_all=True, append_images=frames[1:], duration=50)
    second = whole.rindex(b"\x21\xf9\x04")
    return whole[:-1] + whole[second:-1] * number + whole[-1:]


def text_bomb(name: bytes) -> bytes:
    body = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[name]
    return png(8, 8, 2, 3, chunk(name, body + zeros(300_000_000)) * 3)


def giant_bmp() -> bytes:
    return b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 50_000, 50_000, 1, 24, *[0] * 6)


def giant_tga() -> bytes:
    header = b"\0\0\2" + bytes(9) + b"\xff\xff\xff\xff\x18\0"
    return header + bytes(99) + b"TRUEVISION-XFILE.\0"


def giant_tiles() -> bytes:
    places = [(324, 4, 1, 8), (325, 4, 1, 100)]
    sizes = [(322, 4, 1, 65520), (323, 4, 1, 65520)]
    return tags([*plain_tags(64, 64)[:6], *sizes, *places]) + bytes(200)


def giant_tag() -> bytes:
    return tags([*plain_tags(64, 64), (700, 4, 2**31 - 1, 8)]) + bytes(5000)


# What makes it, channels to ask for, what the outcome says.
BOMBS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "png giant": (lambda: head(60_000, 60_000) + chunk(b"IDAT", zeros(100)), 3, "too many"),
    "png long": (lambda: head(2_000_000_000, 1) + chunk(b"IDAT", zeros(100)), 3, "too many"),
    "png overfull": (lambda: head(8, 8) + chunk(b"IDAT", zeros(300_000_000)), 3, "ed"),
    "zTXt": (lambda: text_bomb(b"zTXt"), 3, "refused"),
    "iTXt": (lambda: text_bomb(b"iTXt"), 3, "refused"),
    "iCCP": (lambda: text_bomb(b"iCCP"), 3, "ed"),
    "gif giant": (lambda: b"GIF89a\xff\xff\xff\xff" + encode(photo(), "gif")[10:], 3, "too many"),
    "gif of many frames": (lambda: moving_gif(5000), 3, "decoded"),
    "webp giant": (lambda: vp8x(16_000, 16_000), 3, "too many"),
    "jpeg giant": (giant_jpeg, 3, "too many"),
    "jpeg of many scans": (lambda: endless_scans(3000, 5000), 3, "too many"),
    "bmp giant": (giant_bmp, 3, "too many"),
    "ppm giant": (lambda: b"P6 90000 90000 255\n" + bytes(100), 3, "too many"),
    "ppm deep": (lambda: b"P6 9000 9000 65535\n" + bytes(100), 3, "too large"),
    "tga giant": (giant_tga, 3, "too many"),
    "tiff giant": (lambda: tags(plain_tags(80_000, 80_000)) + bytes(200), 1, "too many"),
    "tiff of samples": (lambda: tags(plain_tags(3000, 3000, 60_000)) + bytes(200), 3, "too many"),
    "tiff of giant tiles": (giant_tiles, 1, "too many"),
    "tiff of giant tags": (giant_tag, 1, "ed"),
    "tiff in a circle": (lambda: tags(plain_tags(10, 10), 8) + bytes(200), 5, "refused"),
    "tiff deflated": (lambda: deflated_bands(300_000_000), 5, "longer"),
    "png largest": (lambda: png(9480, 9480, 6, 4), 3, "decoded"),
    "jpeg largest": (
        lambda: encode(Image.new("L", (9480, 9480)), "jpeg", progressive=True), 1, "decoded",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, tuple[str, float, float]]:
    """Decode all of them in one process: (outcome, seconds, megabytes grown) of each."""
    folder = tmp_path_factory.mktemp("bombs")
    arguments = []
    for name, (make, channels, _) in BOMBS.items():
        (folder / name).write_bytes(make())
        arguments.append(f"{folder / name}={channels}")
    process = subprocess.run(
        [sys.executable, "-c", CHILD.format(room=ADDRESS_SPACE, tests=TESTS), *arguments],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 0, (process.stdout[-300:], process.stderr)
    assert not process.stderr
    lines = map(json.loads, process.stdout.splitlines())
    return {Path(path).name: tuple(rest) for path, *rest in lines}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.slow
def test_files_made_to_harm_are_harmless(name, outcomes):
    outcome, seconds, megabytes = outcomes[name]
    assert outcome.startswith(("decoded", "refused")), outcome
    assert BOMBS[name][2] in outcome
    assert seconds < 20
    assert megabytes < 1200


@pytest.mark.slow
def test_the_largest_files_are_seen_to_take_memory(outcomes):
    assert outcomes["png largest"][2] > 500
