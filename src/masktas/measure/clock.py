"""Timing calls in turns, to be robust against other work on the machine.

A turn is a warm-up and some timed calls. Networks take turns in rounds, so that other work affects
all of them alike. A network's time is the median over the calls of the fastest quarter of its
turns: other work makes a turn slower, nothing makes it faster.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from masktas.measure.target import Target
from masktas.seeding import seed_for

TURN_SECONDS = 0.05
MAX_CALLS = 50
MIN_CALLS = 3
SLOW_SECONDS = 0.5  # of a call: then one call in a turn is enough
WARM_UPS = 10
WARM_SECONDS = 5.0
GETTING_FASTER = 0.95

Clock = Callable[[], float]
Turn = list[float]  # the milliseconds of the timed calls of a turn


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one inference.

    Attributes:
        median_ms: of the calls of the fastest quarter of the turns.
        low_ms, high_ms: 10th and 90th percentile of all calls.
        repeats: number of timed calls.
        noise: relative difference of `median_ms` between even and odd turns; None if there was
            only one turn.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    noise: float | None

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> Timing:
        """Summarise turns, given in the order in which they were taken."""
        calls = sorted(ms for turn in turns for ms in turn)
        tenth = round((len(calls) - 1) / 10)
        noise = None
        if len(turns) > 1:
            noise = abs(_quiet_median(turns[::2]) / _quiet_median(turns[1::2]) - 1)
        low, high = calls[tenth], calls[len(calls) - 1 - tenth]
        return cls(_quiet_median(turns), low, high, len(calls), noise)


def _quiet_median(turns: Sequence[Turn]) -> float:
    quiet = sorted(turns, key=statistics.median)[: (len(turns) + 3) // 4]
    return statistics.median([ms for turn in quiet for ms in turn])


@dataclass(frozen=True, slots=True)
class Rounds:
    """Number of rounds, and when to stop.

    Attributes:
        least, most: number of rounds; after `least` rounds it stops once times have settled.
        settled: the mean `noise` at or below which they have.
        seconds: after this time it stops, but not before two rounds are complete.
    """

    least: int = 5
    most: int = 25
    settled: float = 0.015
    seconds: float = 900.0

    def over(self, done: int, noise: float | None, seconds: float) -> bool:
        """Return whether `done` rounds are enough."""
        if done >= self.most:
            return True
        if seconds > self.seconds:
            return done >= min(2, self.least)
        return done >= self.least and noise is not None and noise <= self.settled


ONCE = Rounds(least=1, most=1)  # for a user's own measure, which repeats calls itself


def clock_for(target: Target) -> Clock:
    """Return the clock for a target: wall time, or CPU time of this thread.

    Work in a single CPU thread computes whenever it has the processor. Its CPU time excludes the
    time that other programs had it, and equals wall time on a quiet machine.
    """
    return time.thread_time if target.describe()["threads"] == 1 else time.perf_counter


def time_turn(run: Callable[[], object], *, clock: Clock = time.perf_counter) -> Turn:
    """Time calls of `run`, which returns when its work is done: warm-up, then up to 50 calls.

    Garbage collection is off meanwhile.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        call = _warm_up(run, clock)
        least = 1 if call > SLOW_SECONDS else MIN_CALLS
        times: Turn = []
        until = time.perf_counter() + TURN_SECONDS
        while len(times) < least or (len(times) < MAX_CALLS and time.perf_counter() < until):
            times.append(1e3 * _seconds(run, clock))
        return times
    finally:
        if collects:
            gc.enable()


def _warm_up(run: Callable[[], object], clock: Clock) -> float:
    """Call until it stops getting faster, with a limit; return the fastest call's seconds."""
    until = time.perf_counter() + WARM_SECONDS
    best = _seconds(run, clock)
    for _ in range(WARM_UPS):
        last = _seconds(run, clock)
        steady = last >= GETTING_FASTER * best
        best = min(best, last)
        if steady or time.perf_counter() > until:
            break
    return best


def _seconds(run: Callable[[], object], clock: Clock) -> float:
    began = clock()
    run()
    return clock() - began


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set the number of torch's CPU threads, then restore it; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def order_of_turns(count: int, round_: int, seed: int) -> list[int]:
    """Return the order in which `count` networks take turns, different in every round."""
    order = list(range(count))
    random.Random(seed_for(seed, "latency", "turns", round_)).shuffle(order)
    return order
