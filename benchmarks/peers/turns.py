"""Contenders that do the same work, timed in turns."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masktas.train.allocator import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory

OURS = "masktas"
OURS_RETURNING = "masktas, freed memory returned"
M_MMAP_THRESHOLD = -3  # malloc.h
# What glibc sets by itself at most, and does as soon as blocks of 32 MB are freed.
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
TURN = 8  # steps between two waits for the device: it works while the host prepares the next ones
Step = Callable[[int], object]


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: `masktas`, or of the peer.
        precision: `fp32` or `bf16`.
        step: does a step, given its number: equal numbers are equal work.
    """

    name: str
    precision: str
    step: Step

    def __call__(self, number: int) -> None:
        """Do a step; only masktas keeps freed memory."""
        if self.name.startswith(OURS) and self.name != OURS_RETURNING:
            keep_freed_memory()
        else:
            return_freed_memory()
        self.step(number)


def return_freed_memory() -> None:
    """Have this process return large freed blocks to the system, as glibc does by itself."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for what, value in USUAL.items():
            library.mallopt(what, value)


def in_turns(
    steps: Mapping[str, Step],
    seconds: float,
    wait: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    *,
    turn_steps: int = TURN,
    untimed: int = 0,
) -> dict[str, list[float]]:
    """Return the seconds of a step in each turn, of all contenders; one turn of each warms up.

    A turn is `turn_steps` steps and a wait for the device, after `untimed` first steps of the turn
    that are done twice: what others did to caches and memory is not counted. Contenders take turns
    in rotating order, at least two, until the time is up.
    """
    names, found = list(steps), {name: [] for name in steps}
    until, turn = clock() + seconds, 0
    while turn < 3 or clock() < until:
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            numbers = range(turn * turn_steps, (turn + 1) * turn_steps)
            for number in numbers[:untimed]:
                steps[name](number)
            began = clock()
            for number in numbers:
                steps[name](number)
            wait()
            if turn:  # the first one warms up
                found[name].append((clock() - began) / turn_steps)
        turn += 1
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio(times: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Return quartiles and median of a peer's time over ours, turn by turn."""
    return quartiles([its / own for its, own in zip(times, ours, strict=True)])


def measured(
    contenders: Sequence[Contender],
    *,
    images: int,
    flops: Callable[[int], float],
    peaks: Mapping[str, float],
    default: str,
    seconds: float,
    turn_steps: int,
) -> list[dict[str, Any]]:
    """Time contenders on a CPU and return a row of each.

    Args:
        contenders: among them `masktas` in every precision that occurs.
        images: of a step.
        flops: of the matrix products of a step, by its number.
        peaks: of matrix products, by precision.
        default: precision that masktas chooses on this machine.
        seconds: to spend.
        turn_steps: steps of a turn.

    Returns:
        Rows with the seconds of a step, images/s, the share of the peak in its precision, and as
        `ratio` its time over that of masktas in the same precision, as `ratio_to_default` over that
        of masktas in its default precision; each as lower quartile, median, upper quartile.
    """
    steps: dict[str, Step] = {f"{one.name} {one.precision}": one for one in contenders}
    times = in_turns(steps, seconds, lambda: None, turn_steps=turn_steps, untimed=1)
    rows = []
    for one in contenders:
        own = times[f"{one.name} {one.precision}"]
        done = range(turn_steps, turn_steps * (1 + len(own)))  # the first turn warmed up
        mean = sum(map(flops, done)) / len(done)
        rows.append(
            {
                "name": one.name,
                "precision": one.precision,
                "turns": len(own),
                "seconds": quartiles(own),
                "images_per_second": images / statistics.median(own),
                "share_of_peak": mean / statistics.mean(own) / peaks[one.precision],
                "ratio": ratio(own, times[f"{OURS} {one.precision}"]),
                "ratio_to_default": ratio(own, times[f"{OURS} {default}"]),
            }
        )
    return rows
