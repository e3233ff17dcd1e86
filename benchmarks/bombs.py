"""Memory and time that small hostile inputs take from the whole job.

Command   python benchmarks/bombs.py [--source src] [--only NAME ...] [--seconds 120]
Shows     for each input, made in a temporary folder, what `masktas teacher` takes on it: peak of
          the main process with the shared memory of its decoders, and of all processes, both above
          the same command on 34 small files; seconds, and those until the first line of progress.
          A job above 8 GB, or longer than --seconds, is killed, which the table shows.
Limit     main process and shared memory: 1 GB; 20 s, or progress shown. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import bz2
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet

MEMORY_LIMIT = 8e9
MAIN_LIMIT = 1e9
SECONDS_LIMIT = 20.0
SETTINGS = ("--image-size", "32", "--patch-size", "8", "--epochs", "1", "--device", "cpu")


class Peak(NamedTuple):
    """What a run took: bytes of the main process and of all, seconds, first progress, outcome."""

    main: float
    total: float
    seconds: float
    shown: float | None
    outcome: str


def sparse(size: int) -> Callable[[Path], Path]:
    """Return a maker of 34 files of holes."""

    def make(folder: Path) -> Path:
        for number in range(34):
            with open(folder / f"{number}.jpg", "wb") as file:
                file.truncate(size)
        return folder

    return make


def zip_of_one_member(folder: Path) -> Path:
    """Write 34 directory entries of one member of 100 MB."""
    path = folder / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00.jpg", bytes(100 << 20))
    whole = path.read_bytes()
    at = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    entries = whole[at:end] * 34
    record = bytearray(whole[end:])
    record[8:12] = (34).to_bytes(2, "little") * 2
    record[12:16] = len(entries).to_bytes(4, "little")
    path.write_bytes(whole[:at] + entries + record)
    return path


def one_value(folder: Path) -> Path:
    """Write 1,000 rows of one value of 100 MB, by dictionary."""
    value = pa.array([bytes(100 << 20)], pa.binary())
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), value)
    parquet.write_table(
        pa.table({"image": rows}), folder / "one.parquet",
        compression="zstd", store_schema=False, dictionary_pagesize_limit=2**30,
    )  # fmt: skip
    return folder / "one.parquet"


def null_rows(folder: Path) -> Path:
    """Write 3,000,000 rows without an image."""
    table = pa.table({"image": pa.nulls(3_000_000, pa.binary())})
    parquet.write_table(table, folder / "nulls.parquet", row_group_size=3_000_000)
    return folder / "nulls.parquet"


def endless_tar(folder: Path) -> Path:
    """Write 2,000 bzip2 streams, each of a member of 500 MB that is not an image."""
    member = tarfile.TarInfo("notes.txt")
    member.size = 500 << 20
    packer = bz2.BZ2Compressor(9)
    stream = packer.compress(member.tobuf())
    for _ in range(500):
        stream += packer.compress(bytes(1 << 20))
    (folder / "photos.tar.bz2").write_bytes((stream + packer.flush()) * 2000)
    return folder / "photos.tar.bz2"


BOMBS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "34 sparse files of 64 MB": (sparse(64 << 20), ()),
    "34 sparse files of 511 MB": (sparse(511 << 20), ()),
    "zip, 34 entries on 100 MB": (zip_of_one_member, ()),
    "parquet, one value of 100 MB": (one_value, ()),
    "the same, read by index": (one_value, ("--limit", "100")),
    "parquet, 3,000,000 null rows": (null_rows, ()),
    "tar.bz2 of 1 TB": (endless_tar, ()),
}


def memory(group: int, first: int) -> tuple[float, float]:
    """Return bytes of the main process and of its group, both with all anonymous files."""
    main = total = 0.0
    shared: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(name)) != group:
                continue
            rss = int(Path("/proc", name, "statm").read_text().split()[1]) * resource.getpagesize()
            total += rss
            main += rss if int(name) == first else 0
            for link in os.scandir(f"/proc/{name}/fd"):
                if os.readlink(link.path).startswith("/memfd:masktas"):
                    found = os.stat(link.path)
                    shared[found.st_ino] = found.st_blocks * 512
        except (OSError, IndexError):  # it has ended
            continue
    return main + sum(shared.values()), total + sum(shared.values())


def measure(data: Path, flags: tuple[str, ...], source: Path, folder: Path, most: float) -> Peak:
    """Run `masktas teacher` on the data."""
    log = folder / "log.txt"
    command = [sys.executable, "-m", "masktas", "teacher", data, "--out", folder / "run"]
    main = total = 0.0
    shown = None
    killed = ""
    with open(log, "wb") as file:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*map(str, command), *SETTINGS, *flags],
            stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(source.resolve())},
        )  # fmt: skip
        while process.poll() is None:
            one, everything = memory(process.pid, process.pid)
            main, total = max(main, one), max(total, everything)
            seconds = time.perf_counter() - began
            if shown is None and re.search(rb"^decoding: ", log.read_bytes(), re.MULTILINE):
                shown = seconds
            if everything > MEMORY_LIMIT or seconds > most:
                killed = "killed at " + ("8 GB" if everything > MEMORY_LIMIT else f"{most:.0f} s")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(0.01)
    lines = log.read_text(errors="replace").strip().splitlines()
    seconds = time.perf_counter() - began
    return Peak(main, total, seconds, shown, killed or (lines[-1][-110:] if lines else ""))


def main() -> int:
    """Make the inputs, run them and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--only", nargs="*", default=list(BOMBS))
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "small")
        (folder / "data").mkdir(parents=True)
        start = measure(sparse(1000)(folder / "data"), (), given.source, folder, given.seconds)
        print(f"34 small files: {start.main / 1e9:.2f} GB, {start.seconds:.1f} s\n")
        print("| input | main, GB | all, GB | seconds | progress after, s | outcome |")
        print("| --- | --- | --- | --- | --- | --- |", flush=True)
        for number, bomb in enumerate(given.only):
            make, flags = BOMBS[bomb]
            folder = Path(name, str(number))
            (folder / "data").mkdir(parents=True)
            data = make(folder / "data")
            found = measure(data, flags, given.source, folder, given.seconds)
            above = found.main - start.main
            in_time = min(found.seconds, found.shown or found.seconds) < SECONDS_LIMIT
            failed |= above > MAIN_LIMIT or not in_time
            print(
                f"| {bomb} | {above / 1e9:.2f} | {(found.total - start.total) / 1e9:.2f} | "
                f"{found.seconds:.0f} | {'-' if found.shown is None else f'{found.shown:.0f}'} | "
                f"{found.outcome} |",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
