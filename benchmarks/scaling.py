"""How cost grows: seconds and memory against images, candidates, networks of a space, processes.

Command   python benchmarks/scaling.py [--only images candidates networks ranks] [--large]
Does      images: decodes and stores that many noise images of 16 pixels, opens the store again in
          a new process, up to the first batch. candidates: an evolution over `small`, with a
          journal, rated by the number of parameters; and the replay of that journal by a resumed
          search. networks: a space of more and more blocks within half of its largest network:
          counting, and 100 draws. ranks: the same 8 supernet steps by more and more processes.
          Each measurement is a process of its own; --large goes ten times as far.
Shows     seconds and peak memory beyond that of a process which has imported the same; and the
          slope, the exponent k of n^k, between neighbours and over the larger half.
Limit     seconds and memory grow with images and candidates by no exponent above 1.2, over the
          larger half; with the blocks of a network by none above 3 (the cells of a budget are
          about the square of the blocks, and each is summed over the blocks). Processes have no
          limit: they share this machine's cores. Exit code 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
BLOCKS = (6, 12, 24, 48)  # of the largest network; two more choices each multiply the networks
LEAST_SECONDS, LEAST_BYTES = 0.05, 8 * 2**20  # below, a slope is noise


@dataclass(frozen=True)
class Kind:
    """What grows, how far, and by which exponent at most."""

    title: str
    sizes: tuple[int, ...]
    large: tuple[int, ...]
    limit: float = math.inf


KINDS = {
    "build": Kind("images stored", (1_000, 3_000, 10_000), (10_000, 30_000, 100_000), 1.2),
    "open": Kind("images, opened again", (1_000, 3_000, 10_000), (10_000, 30_000, 100_000), 1.2),
    "evolve": Kind("candidates", (100, 1_000, 5_000), (1_000, 10_000, 50_000), 1.2),
    "replay": Kind("candidates, resumed", (100, 1_000, 5_000), (1_000, 10_000, 50_000), 1.2),
    "count": Kind("blocks of a network", BLOCKS, (*BLOCKS, 96), 3.0),
    "ranks": Kind("processes", (1, 2), (1, 2, 4)),
}
PARTS = {
    "images": ("build", "open"), "candidates": ("evolve", "replay"), "networks": ("count",),
    "ranks": ("ranks",),
}  # fmt: skip


class Noise:
    """Distinct images, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def images(count: int, folder: Path) -> Callable[[], None]:
    """Return what opens the store of a number of images and reads a batch; it is built first."""
    from images import batches, opened

    def work() -> None:
        store = opened(Noise(count), folder / "store", 16)
        next(batches(store, 16, 32)())

    return work


def candidates(count: int, folder: Path) -> Callable[[], None]:
    """Return a search among so many candidates, which resumes from its journal if there is one."""
    from masktas.config import SearchSettings
    from masktas.space import SearchSpace
    from masktas.strategies import Evolution, Score, journal

    def work() -> None:
        space = SearchSpace.preset("small")
        within = SearchSettings(max_params="80% of largest").check(space)
        strategy = Evolution(within, population=50, generations=count // 50, diversity=3)
        path, costs = folder / "history.jsonl", within.costs
        journal.replay(path, strategy)
        while not strategy.done:
            asked = strategy.ask()
            scores = [Score(float(costs.amount("params", one.architecture))) for one in asked]
            start = len(strategy.history)
            strategy.tell(scores)
            journal.write(path, strategy.history[start:], start)

    return work


def networks(blocks: int, _: Path) -> Callable[[], None]:
    """Return the counting of a space of up to so many blocks within a budget, and 100 draws."""
    from masktas.config import SearchSettings

    def work() -> None:
        within = SearchSettings(max_params="50% of largest").check(space_of(blocks))
        assert within.size() > 0
        rng = random.Random(0)
        for _ in range(100):
            within.sample(rng)

    return work


def space_of(blocks: int):
    from masktas.space import SearchSpace

    depths = (blocks - 2, blocks - 1, blocks)
    return SearchSpace(f"deep-{blocks}", (320, 384, 448), depths, (5, 6, 7), (3, 3.5, 4))


def steps(_: int, __: Path) -> Callable[[], None]:
    """Return 8 training steps of a supernet, as one process of a job."""
    from masktas.config import AllSettings, SupernetSettings, TeacherSettings
    from masktas.stages.plan.stage import task_on_noise
    from masktas.train.ranks import Ranks
    from masktas.train.runtime import Runtime
    from masktas.train.step import train_step

    ranks = Ranks.join()
    teacher = TeacherSettings(embed_dim=192, depth=4, num_heads=3)
    settings = AllSettings(supernet=SupernetSettings(space="micro"), teacher=teacher)
    task = task_on_noise("supernet", settings, Runtime.choose("cpu", "fp32"), 32)
    train_step(task, 0, ranks)

    def work() -> None:
        for step in range(1, 9):
            train_step(task, step, ranks)

    return work


WORK = {
    "build": images, "open": images, "evolve": candidates, "replay": candidates,
    "count": networks, "ranks": steps,
}  # fmt: skip


def child(kind: str, size: int, folder: Path) -> None:
    """Measure in this process, and print seconds and bytes."""
    work = WORK[kind](size, folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if int(os.environ.get("RANK", 0)) == 0:
        print(json.dumps({"seconds": seconds, "bytes": grown * 1024}))


def measured(kind: str, size: int, folder: Path) -> dict[str, float]:
    """Measure in a new process; of a job of several, the first one is measured."""
    script = [str(Path(__file__)), "--child", kind, str(size), str(folder)]
    command = [sys.executable, *script]
    if kind == "ranks" and size > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        command = [sys.executable, *launcher, *script]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks")])
    threads = max(1, (os.cpu_count() or 1) // (size if kind == "ranks" else 1))
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def slope(sizes: Sequence[float], values: Sequence[float], least: float) -> float | None:
    """Return the exponent k of n^k through some points; None if all of it is noise."""
    if max(values) < least:
        return None
    x, y = np.log(sizes), np.log(np.maximum(values, least))
    return float(np.polyfit(x, y, 1)[0])


def rows_of(kind: str, found: Sequence[tuple[int, dict[str, float]]]) -> list[str]:
    """Return the lines of the table."""
    rows = []
    for index, (size, one) in enumerate(found):
        pair = found[max(0, index - 1) : index + 1]
        local = [words(slopes(pair)[key]) if len(pair) == 2 else "" for key in ("seconds", "bytes")]
        about = f"{size:,}"
        if kind == "count":
            about += f" ({space_of(size).size():.1e} networks)"
        rows.append(
            f"| {KINDS[kind].title} | {about} | {one['seconds']:.2f} | {one['bytes'] / 2**20:.0f} "
            f"| {' | '.join(local)} |"
        )
    return rows


def slopes(found: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float | None]:
    """Return the exponents of seconds and bytes over some points."""
    sizes = [size for size, _ in found]
    least = {"seconds": LEAST_SECONDS, "bytes": LEAST_BYTES}
    return {key: slope(sizes, [one[key] for _, one in found], least[key]) for key in least}


def words(value: float | None) -> str:
    return "noise" if value is None else f"{value:.2f}"


def main(given_words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(given_words)
    if given.child:
        kind, size, folder = given.child
        child(kind, int(size), Path(folder))
        return 0
    found: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for part in given.only:
        for at in range(len(sizes_of(PARTS[part][0], large=given.large))):
            with tempfile.TemporaryDirectory() as name:
                for kind in PARTS[part]:  # the second kind reads what the first one has written
                    size = sizes_of(kind, large=given.large)[at]
                    one = measured(kind, size, Path(name))
                    print(f"{kind} {size}: {one['seconds']:.2f} s", file=sys.stderr)
                    found.setdefault(kind, []).append((size, one))
    print("| what grows | n | s | MiB | slope of s | slope of MiB |\n|" + " --- |" * 6)
    for kind, points in found.items():
        print("\n".join(rows_of(kind, points)))
    exceeded = [line for kind, points in found.items() if (line := complaint(kind, points))]
    print("\n" + ("\n".join(exceeded) or "No limit is exceeded."))
    return int(bool(exceeded))


def sizes_of(kind: str, *, large: bool) -> tuple[int, ...]:
    return KINDS[kind].large if large else KINDS[kind].sizes


def complaint(kind: str, found: Sequence[tuple[int, dict[str, float]]]) -> str:
    """Return which limit is exceeded over the larger half of the sizes; "" if none is."""
    over = slopes(found[(len(found) - 1) // 2 :])
    bad = {key: one for key, one in over.items() if one is not None and one > KINDS[kind].limit}
    if not bad:
        return ""
    grown = ", ".join(f"{key} by {one:.2f}" for key, one in bad.items())
    return f"{KINDS[kind].title}: grow with n^k, {grown}; the limit is {KINDS[kind].limit}."


if __name__ == "__main__":
    sys.exit(main())
