"""How long one call takes: in turns, since a machine is never quite quiet.

A turn is a warm-up and some timed calls. Many networks take turns, again and again, so that what
else the machine does meets all of them alike. A network's time is the median of the calls of the
quietest quarter of its turns: other work makes a turn slower, nothing makes it faster.
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
MOST_CALLS = 50
LEAST_CALLS = 3
SLOW_SECONDS = 0.5  # of a call: one in a turn is enough then
WARM_UPS = 10
WARM_SECONDS = 5.0
GETTING_FASTER = 0.95

Clock = Callable[[], float]
Turn = list[float]  # the milliseconds of the timed calls of a turn


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one inference takes.

    Attributes:
        median_ms: of the calls of the quietest quarter of the turns.
        low_ms, high_ms: a tenth of all calls were faster, a tenth slower.
        repeats: timed calls in all.
        noise: by which share `median_ms` of every other turn differs from that of the turns
            between; None if there was but one turn.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    noise: float | None

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> Timing:
        """Sum up turns, in the order in which they were taken."""
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
    """How often every network has its turn.

    Attributes:
        least, most: rounds; after the least it ends as soon as times have settled.
        settled: they have when their `noise` is at most this on average.
        seconds: after which no more than two rounds are made, or what has been begun.
    """

    least: int = 5
    most: int = 25
    settled: float = 0.015
    seconds: float = 900.0

    def over(self, done: int, noise: float | None, seconds: float) -> bool:
        """Say whether `done` rounds are enough."""
        if done >= self.most:
            return True
        if seconds > self.seconds:
            return done >= min(2, self.least)
        return done >= self.least and noise is not None and noise <= self.settled


ONCE = Rounds(least=1, most=1)  # of a user's own measure, which repeats what it needs to


def clock_for(target: Target) -> Clock:
    """Return the clock to time a target by: seconds of the wall, or of this thread alone.

    What runs in one thread of the CPU computes all the time that it has the processor. Its own
    seconds leave out when another program had it, and on a quiet machine are those of the wall.
    """
    return time.thread_time if target.describe()["threads"] == 1 else time.perf_counter


def time_turn(run: Callable[[], object], *, clock: Clock = time.perf_counter) -> Turn:
    """Time calls of `run`, which returns when its work is done: warm-up, then up to 50.

    Nothing is collected meanwhile.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        call = _warm_up(run, clock)
        least = 1 if call > SLOW_SECONDS else LEAST_CALLS
        times: Turn = []
        until = time.perf_counter() + TURN_SECONDS
        while len(times) < least or (len(times) < MOST_CALLS and time.perf_counter() < until):
            times.append(1e3 * _seconds(run, clock))
        return times
    finally:
        if collects:
            gc.enable()


def _warm_up(run: Callable[[], object], clock: Clock) -> float:
    """Call until it gets no faster, or often enough; return the fastest call's seconds."""
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
    """Have torch compute with so many threads of the CPU, then as before; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def order_of_turns(count: int, round_: int, seed: int) -> list[int]:
    """Return in which order so many networks have their turns: another one in every round."""
    order = list(range(count))
    random.Random(seed_for(seed, "latency", "turns", round_)).shuffle(order)
    return order
