"""The clock: warm-up, bounds, the quietest turns, and that nothing it changes stays changed."""

from __future__ import annotations

import gc
import time

import pytest
import torch

from masktas.measure import clock
from masktas.measure.clock import Rounds, Timing, clock_for, order_of_turns, time_turn
from masktas.measure.target import Target


class Ticking:
    """A clock that only its own work moves on."""

    def __init__(self, seconds):
        self.now, self.calls, self._seconds = 0.0, 0, seconds

    def __call__(self):
        return self.now

    def work(self):
        self.now += self._seconds(self.calls)
        self.calls += 1


def test_slow_first_calls_are_no_part_of_a_turn():
    ticking = Ticking(lambda call: 10.0 if call < 1 else 0.5 if call < 3 else 0.002)
    turn = time_turn(ticking.work, clock=ticking)
    assert turn == pytest.approx([2.0] * len(turn))


def test_a_call_that_gets_ever_faster_is_warmed_up_boundedly():
    ticking = Ticking(lambda call: 0.9**call)
    turn = time_turn(ticking.work, clock=ticking)
    assert ticking.calls == 1 + clock.WARM_UPS + len(turn)


@pytest.mark.parametrize(("seconds", "least"), [(0.0001, 3), (0.4, 3), (0.6, 1)])
def test_turns_are_bounded(monkeypatch, seconds, least):
    ticking = Ticking(lambda call: seconds)
    monkeypatch.setattr(clock.time, "perf_counter", ticking)
    turn = time_turn(ticking.work, clock=ticking)
    assert len(turn) == (clock.MAX_CALLS if seconds < 0.001 else least)


def test_nothing_is_collected_meanwhile():
    seen = []
    assert gc.isenabled()
    time_turn(lambda: seen.append(gc.isenabled()))
    assert set(seen) == {False}
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        time_turn(lambda: 1 / 0)
    assert gc.isenabled()


def test_threads_are_put_back():
    before = torch.get_num_threads()
    seen = []

    def work():
        with clock.torch_threads(before + 2):
            seen.append(torch.get_num_threads())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert seen == [before + 2]
    assert torch.get_num_threads() == before


def test_one_thread_is_timed_without_the_time_of_others():
    assert clock_for(Target(threads=1)) is time.thread_time
    assert clock_for(Target(threads=2)) is time.perf_counter
    sleeping = time_turn(lambda: time.sleep(0.01), clock=clock_for(Target(threads=1)))
    assert max(sleeping) < 5


def test_a_time_is_that_of_the_quietest_turns():
    turns = [[2.0, 2.2, 2.1], [9.0, 8.0, 2.0], [3.0, 3.1, 3.2], [4.0, 4.0, 4.0]]
    timing = Timing.of(turns)
    assert timing.median_ms == 2.1
    assert timing.repeats == 12
    assert timing.low_ms <= timing.median_ms < timing.high_ms <= 9
    assert timing.noise == pytest.approx(1 - 2.1 / 4)
    assert Timing.of([[3.0]]) == Timing(3.0, 3.0, 3.0, 1, None)


def test_rounds_end_when_times_have_settled_or_time_is_up():
    rounds = Rounds(least=3, most=6, settled=0.01, seconds=10)
    assert not rounds.over(2, 0.0, 1)
    assert rounds.over(3, 0.01, 1)
    assert not rounds.over(3, 0.02, 1)
    assert rounds.over(6, 0.5, 1)
    assert not rounds.over(1, 0.5, 11)
    assert rounds.over(2, 0.5, 11)


def test_the_order_of_turns_changes_but_is_named_by_its_seed():
    orders = [order_of_turns(20, round_, 0) for round_ in range(5)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    assert orders[2] == order_of_turns(20, 2, 0) != order_of_turns(20, 2, 1)
