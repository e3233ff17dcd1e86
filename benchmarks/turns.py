"""Input of another revision and of this tree, in turns: what a change costs.

Command   python benchmarks/turns.py REVISION --table images.parquet [--turns 6]
          REVISION must have benchmarks/images.py with `opened` and `batches`.
Shows     medians of images/s and of processor seconds, before and after: building the cache,
          warm epochs from it, and epochs without one, of the photos as a folder of files; and the
          median and the quartiles of the ratios of each turn. Every measurement is a process.
Limit     none: a ratio says something if its quartiles do not enclose 1. On a quiet machine only.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from crops import TABLE, write_files

ROOT = Path(__file__).parents[1]
MEASURE = """
import sys, tempfile, time
from pathlib import Path
from statistics import median
from crops import images_a_second
from images import batches, opened
what, files, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
count = sum(1 for _ in files.rglob("*.jpg"))
with tempfile.TemporaryDirectory() as folder:
    def build(number):
        began = time.perf_counter()
        opened(files, Path(folder, str(number)), size)
        return count / (time.perf_counter() - began)
    if what == "build":
        build(0)
        print(median(build(number) for number in range(1, 4)))
    else:
        bounds = () if what == "warm" else (0,)
        epoch = batches(opened(files, Path(folder, "cache"), size, *bounds), size, 128)
        images_a_second(epoch)
        print(median(images_a_second(epoch) for _ in range(40 if what == "warm" else 3)))
"""
WHATS = {"build": "build the cache", "warm": "warm epoch", "bare": "epoch without a cache"}


def measure(tree: Path, what: str, files: Path, size: int) -> tuple[float, float]:
    """Return images/s and the processor seconds of a whole process that runs a tree's code."""
    paths = os.pathsep.join([str(tree / "src"), str(tree / "benchmarks")])
    process = subprocess.Popen(
        [sys.executable, "-c", MEASURE, what, str(files), str(size)],
        env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, cwd=files,
    )  # fmt: skip
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # with the children that decoded
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{tree}: measuring {what!r} failed (exit code {process.returncode}).")
    return float(text), usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=6)
    given = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        trees = {"before": Path(name, "before"), "after": ROOT}
        archive = ["git", "archive", given.revision, "src", "benchmarks"]
        packed = subprocess.run(archive, cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(trees["before"], filter="data")
        (files := Path(name, "files")).mkdir()
        write_files(given.table, files)
        for turn in range(given.turns):
            for what in WHATS:
                for side in sorted(trees, reverse=turn % 2 == 0):  # either is first in turn
                    one = measure(trees[side], what, files, given.size)
                    found.setdefault((what, side), []).append(one)
                    print(f"{turn + 1} {what} {side}: {one[0]:.0f} images/s", file=sys.stderr)
    print("| what | before | after | after / before, median of turns | quartiles |")
    print("| --- | --- | --- | --- | --- |")
    for what, words in WHATS.items():
        for index, unit in enumerate(("images/s", "processor s")):
            before, after = ([one[index] for one in found[what, side]] for side in trees)
            ratios = [new / old for old, new in zip(before, after, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            old, new = statistics.median(before), statistics.median(after)
            print(
                f"| {words}, {unit} | {old:,.1f} | {new:,.1f} | {middle:.2f} "
                f"| {low:.2f} to {high:.2f} |"
            )


if __name__ == "__main__":
    main()
