"""Image files of every kind that is read, damage to them, and a process that decodes the result.

`python damaged.py ARCHIVE SEED FIRST LAST` decodes that range of variants with 1.5 GB of address
space and prints a line for each: number, original, outcome, milliseconds, megabytes grown.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "imagenet1000" / "sample.parquet"
ADDRESS_SPACE = 1_500_000_000
SECONDS = 20.0  # for one image; a slower one is counted as hanging

# --- originals -----------------------------------------------------------------------------------


def photo(side: int = 48, seed: int = 0) -> np.ndarray:
    """Soft shapes with some noise, `[side, side + 16, 3]`."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, : side + 16] / side
    waves = [np.sin(rng.uniform(2, 9) * rows + rng.uniform(2, 9) * columns) for _ in range(3)]
    noise = rng.normal(0, 6, (side, side + 16, 3))
    return (128 + 100 * np.stack(waves, axis=2) + noise).clip(0, 255).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def deep_png(values: np.ndarray) -> bytes:
    """Encode 16 bits of grey, grey with alpha, colour, colour with alpha, `[H, W, C]`."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + end


def tiff(values: np.ndarray, **options: Any) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _of_pillow() -> Iterator[tuple[str, bytes]]:
    color = Image.fromarray(photo())
    clear = color.convert("RGBA")
    clear.putalpha(Image.fromarray(photo(seed=1)[:, :, 0]))
    exif = Image.Exif()
    exif[274] = 6
    frames = [Image.fromarray(photo(24, seed)) for seed in range(4)]
    moving = {"save_all": True, "append_images": frames[1:]}
    yield "jpeg", encode(color, "jpeg", exif=exif.tobytes())
    yield "jpeg grey", encode(color.convert("L"), "jpeg")
    yield "jpeg cmyk", encode(color.convert("CMYK"), "jpeg")
    yield "jpeg progressive", encode(color, "jpeg", progressive=True, quality=95)
    yield "mpo", encode(frames[0], "mpo", **moving)
    for mode in ("1", "L", "LA", "P", "RGB"):
        yield f"png {mode}", encode(color.convert(mode), "png")
    yield "png RGBA", encode(clear, "png", exif=exif.tobytes())
    yield "png 16 bits", encode(photo()[:, :, 0].astype(np.uint16) * 257, "png")
    yield "apng", encode(frames[0], "png", **moving)
    yield "gif", encode(color, "gif")
    yield "gif moving", encode(frames[0], "gif", **moving)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp {mode}", encode(color.convert(mode), "bmp")
    yield "webp", encode(color, "webp")
    yield "webp lossless", encode(clear, "webp", lossless=True, exif=exif.tobytes())
    yield "webp moving", encode(frames[0], "webp", **moving)
    for packed in (None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        yield f"tiff {packed}", encode(color, "tiff", compression=packed)
    yield "tiff group4", encode(color.convert("1"), "tiff", compression="group4")
    for mode in ("L", "P", "RGBA", "CMYK", "F", "I;16"):
        source = color.convert("L") if mode == "I;16" else color
        yield f"tiff {mode}", encode(source.convert(mode), "tiff")
    for mode in ("1", "L", "RGB"):
        yield f"ppm {mode}", encode(color.convert(mode), "ppm")
    yield "tga", encode(color, "tga")
    yield "tga packed", encode(clear, "tga", compression="tga_rle")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.init()
    if "AVIF" in Image.SAVE:
        yield "avif", encode(clear.resize((32, 24)), "avif")


def _of_arrays() -> Iterator[tuple[str, bytes]]:
    deep = photo().astype(np.uint16) * 257
    bands = np.concatenate([photo(), photo(seed=1)[:, :, :2]], axis=2)
    grey = {"photometric": "minisblack"}
    yield "png 16 bits RGB", deep_png(deep)
    yield "png 16 bits LA", deep_png(deep[:, :, :2])
    yield "tiff 16 bits RGB", tiff(deep, photometric="rgb")
    yield (
        "tiff 16 bits deflate",
        tiff(deep, photometric="rgb", compression="zlib", predictor=True, rowsperstrip=7),
    )
    yield "tiff bands", tiff(bands, planarconfig="contig", **grey)
    yield "tiff planes", tiff(bands.transpose(2, 0, 1), planarconfig="separate", **grey)
    yield (
        "tiff tiles",
        tiff(bands, planarconfig="contig", tile=(16, 32), compression="zlib", **grey),
    )
    yield "tiff pages", tiff(bands.transpose(2, 0, 1), **grey)
    yield "tiff big", tiff(bands[:, :, 0].astype(np.float32) / 255, bigtiff=True, byteorder=">")
    head = b"%d %d\n" % (deep.shape[1], deep.shape[0])
    yield "ppm 16 bits", b"P6 " + head + b"65535\n" + deep.astype(">u2").tobytes()
    yield "ppm text", b"P3 " + head + b"255\n" + b" ".join(b"%d" % v for v in photo().ravel())
    yield "npy", npy(photo())
    yield "npy bands", npy(bands.astype(np.float32))


def originals(photos: int = 0) -> dict[str, bytes]:
    """Return a whole file of every kind, and so many real photos where there are any."""
    files = dict([*_of_pillow(), *_of_arrays()])
    if photos and PHOTOS.exists():
        import pyarrow.parquet as parquet

        batch = next(parquet.ParquetFile(PHOTOS).iter_batches(photos, columns=["image"]))
        for number, row in enumerate(batch["image"].to_pylist()):
            files[f"photo {number}"] = row["bytes"]
    return files


def channels_of(name: str) -> int:
    """Return the number of channels to ask a kind of file for."""
    several = ("tiff bands", "tiff planes", "tiff tiles", "tiff pages", "npy bands")
    return 5 if name in several else 3


# --- damage --------------------------------------------------------------------------------------


Damage = Callable[[np.random.Generator, bytearray, bytes], bytearray]
SIZES = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def truncate(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    return file[: int(rng.integers(0, len(file)))]


def flip_bits(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    for place in rng.integers(0, len(file), int(rng.integers(1, 20))):
        file[place] ^= 1 << int(rng.integers(8))
    return file


def edit_header(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    for place in rng.integers(0, min(len(file), 120), int(rng.integers(1, 6))):
        file[place] = int(rng.choice([0, 1, 2, 16, 127, 128, 254, 255, rng.integers(256)]))
    return file


def edit_size(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    """Write a remarkable number of 2 or 4 bytes somewhere, mostly near either end."""
    span = min(len(file), int(rng.choice([40, 200, len(file)])))
    place = int(rng.integers(span))
    place = place if rng.uniform() < 0.7 else len(file) - 1 - place
    number, length = int(rng.choice(SIZES)), int(rng.choice([2, 4]))
    order = "little" if rng.uniform() < 0.5 else "big"
    file[place : place + length] = (number % 256**length).to_bytes(length, order)
    return file


def swap(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    for a, b in rng.integers(0, len(file), (int(rng.integers(1, 10)), 2)):
        file[a], file[b] = file[b], file[a]
    return file


def splice(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    cut, start = int(rng.integers(len(file))), int(rng.integers(len(other)))
    length = int(rng.integers(1, 400))
    return file[:cut] + other[start : start + length] + file[cut + int(rng.integers(0, length)) :]


def overwrite(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    place, length = int(rng.integers(len(file))), int(rng.integers(1, 64))
    file[place : place + length] = rng.bytes(length) if rng.uniform() < 0.5 else bytes(length)
    return file


def remove(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    place = int(rng.integers(len(file)))
    del file[place : place + int(rng.integers(1, 40))]
    return file


def repeat(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    place, length = int(rng.integers(len(file))), int(rng.integers(1, 200))
    piece = file[place : place + length]
    return file[:place] + piece * int(rng.integers(2, 50)) + file[place + length :]


def concatenate(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    return bytearray(other) + file if rng.uniform() < 0.5 else file + other


def graft(rng: np.random.Generator, file: bytearray, other: bytes) -> bytearray:
    """The start of one kind, the rest of another."""
    head = int(rng.integers(4, 64))
    return bytearray(other[:head]) + file[head:]


def mend(file: bytearray) -> bytearray:
    """Give the chunks of a PNG right checksums again, so that decoders look into them."""
    at = 8
    while file[:4] == b"\x89PNG" and at + 12 <= len(file):
        length = int.from_bytes(file[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(file):
            break
        file[end : end + 4] = struct.pack(">I", zlib.crc32(file[at + 4 : end]))
        at = end + 4
    return file


DAMAGES: tuple[Damage, ...] = (
    truncate, flip_bits, edit_header, edit_size, swap, splice, overwrite, remove, repeat,
    concatenate, graft,
)  # fmt: skip


def variant(files: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Return a kind of file and one of it, damaged in one to three ways."""
    rng = np.random.default_rng([seed, number])
    names = list(files)
    name = names[number % len(names)]
    file = bytearray(files[name])
    for kind in rng.choice(len(DAMAGES), int(rng.choice([1, 1, 2, 3]))):
        if not file:
            break
        file = DAMAGES[kind](rng, file, files[str(rng.choice(names))])
    return name, bytes(mend(file) if rng.uniform() < 0.7 else file)


# --- decoding apart ------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of one variant: decoded, refused, or what went wrong.

    Attributes:
        number: of the variant.
        name: of its original.
        outcome: "decoded", "refused" or a description of a fault.
        milliseconds: that it took.
        megabytes: that the process had grown to since its start.
    """

    number: int
    name: str
    outcome: str
    milliseconds: float
    megabytes: float


def peak() -> float:
    """Return the most memory that this process has held, in MB.

    `ru_maxrss` will not do where there is better: a child begins with that of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def outcome_of(content: bytes, in_channels: int) -> str:
    """Decode, and look at every promise."""
    from masktas.data.decode.image import decode, dimensions
    from masktas.errors import DataError

    try:
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            try:
                pixels = decode(content, size=(20, 24), in_channels=in_channels)
            finally:
                try:
                    found = dimensions(content)
                except DataError:
                    found = None
        if leaked:
            return f"warning {leaked[0].message}"
        if pixels.shape != (20, 24, in_channels) or pixels.dtype != np.uint8:
            return f"{pixels.dtype} {pixels.shape}"
        return "decoded" if found is not None else "decoded, but dimensions are refused"
    except DataError as error:
        short = 0 < len(str(error)) <= 160 and "\n" not in str(error)
        return "refused" if short else f"reason {error}"
    except BaseException as error:
        return f"{type(error).__name__} {error}"


def judge(path: str, seed: int, first: int, last: int) -> None:
    """Decode a range of variants of files in an archive in this process, and tell of each."""
    with np.load(path) as archive:
        files = {name: archive[name].tobytes() for name in archive.files}
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for name, file in files.items():  # every plugin is loaded, every lazy import done
        assert outcome_of(file, channels_of(name)) == "decoded", name
    start = peak()
    for number in range(first, last):
        name, content = variant(files, seed, number)
        began = time.perf_counter()
        outcome = outcome_of(content, channels_of(name))
        took = (time.perf_counter() - began) * 1000
        grown = peak() - start
        print(json.dumps([number, name, outcome, round(took, 2), round(grown, 1)]), flush=True)


def verdicts(files: dict[str, bytes], seed: int, first: int, last: int) -> Iterator[Verdict]:
    """Decode a range of variants in processes of their own; one that dies is a verdict too."""
    with tempfile.NamedTemporaryFile(suffix=".npz") as archive:
        np.savez(archive, **{name: np.frombuffer(file, np.uint8) for name, file in files.items()})
        archive.flush()
        while first < last:
            command = [sys.executable, __file__, archive.name, *map(str, (seed, first, last))]
            for verdict in _told(command):
                yield verdict
                first = verdict.number + 1
            if first < last:
                name, _ = variant(files, seed, first)
                yield Verdict(first, name, "the process died", 0.0, 0.0)
                first += 1


def _told(command: list[str]) -> Iterator[Verdict]:
    """Run a process for as long as it goes on telling verdicts; what it says else is one too."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        watch = threading.Timer(SECONDS, process.kill)
        watch.start()
        number = -1
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                watch.cancel()
                watch = threading.Timer(SECONDS, process.kill)
                watch.start()
                verdict = Verdict(*json.loads(line))
                number = verdict.number
                yield verdict
        watch.cancel()
        errors.seek(0)
        if said := errors.read().decode(errors="replace").strip():
            yield Verdict(number, "", f"stderr: {said[-300:]}", 0.0, 0.0)


if __name__ == "__main__":
    judge(sys.argv[1], *map(int, sys.argv[2:]))
