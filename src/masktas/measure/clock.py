"""How long one call takes: in turns, since a machine is never quite quiet.

A turn is a warm-up and some timed calls. Many networks take turns, again and again, so that what
else the machine does meets all of them alike. A network's time is the median of its quietest
turn: other work makes a turn slower, nothing makes it faster. On a machine that trained on both
of its cores meanwhile, models fitted to it were off by 1.5 % on average, those fitted to the median
of all turns by 2.9 % (docs/latency.md).
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

from masktas.seeding import seed_for

TURN_SECONDS = 0.05
MOST_CALLS = 50
LEAST_CALLS = 3
SLOW_SECONDS = 0.5  # of a call: one in a turn is enough then
WARM_UPS = 10
WARM_SECONDS = 5.0
GETTING_FASTER = 0.95
OUTER = 10  # low and high: so many per cent of the calls are below, and above

Turn = list[float]  # the milliseconds of the timed calls of a turn


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one inference takes.

    Attributes:
        median_ms: of the calls of the quietest turn.
        low_ms, high_ms: a tenth of all calls were faster, a tenth slower.
        repeats: timed calls in all.
        noise: by which share the second quietest turn was slower; None if there was but one.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    noise: float | None

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> Timing:
        """Sum up turns."""
        medians = sorted(statistics.median(turn) for turn in turns)
        calls = sorted(ms for turn in turns for ms in turn)
        tenth = (len(calls) - 1) / OUTER
        low, high = calls[round(tenth)], calls[len(calls) - 1 - round(tenth)]
        noise = medians[1] / medians[0] - 1 if len(medians) > 1 else None
        return cls(medians[0], low, high, len(calls), noise)


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often every network has its turn.

    Attributes:
        least, most: rounds; after the least it ends as soon as times have settled.
        settled: they have when the second quietest turns are slower by this share on average.
        seconds: after which no more than two rounds are made, or what has been begun.
    """

    least: int = 5
    most: int = 25
    settled: float = 0.01
    seconds: float = 900.0

    def over(self, done: int, noise: float | None, seconds: float) -> bool:
        """Say whether `done` rounds are enough."""
        if done >= self.most:
            return True
        if seconds > self.seconds:
            return done >= min(2, self.least)
        return done >= self.least and noise is not None and noise <= self.settled


ONCE = Rounds(least=1, most=1)  # of a user's own measure, which repeats what it needs to


def time_turn(run: Callable[[], object]) -> Turn:
    """Time calls of `run`, which returns when its work is done: warm-up, then up to 50.

    Nothing is collected meanwhile.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        call = _warm_up(run)
        least = 1 if call > SLOW_SECONDS else LEAST_CALLS
        times: Turn = []
        until = time.perf_counter() + TURN_SECONDS
        while len(times) < least or (len(times) < MOST_CALLS and time.perf_counter() < until):
            times.append(1e3 * _seconds(run))
        return times
    finally:
        if collects:
            gc.enable()


def _warm_up(run: Callable[[], object]) -> float:
    """Call until it gets no faster, or often enough; return the fastest call's seconds."""
    until = time.perf_counter() + WARM_SECONDS
    best = _seconds(run)
    for _ in range(WARM_UPS):
        last = _seconds(run)
        steady = last >= GETTING_FASTER * best
        best = min(best, last)
        if steady or time.perf_counter() > until:
            break
    return best


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


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
