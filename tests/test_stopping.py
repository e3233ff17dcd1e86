"""Asked to stop, by SIGTERM or by the clock: at once where nobody listens, else when looked at."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktas.errors import ConfigError, MasktasError, Stopped
from masktas.stopping import Stopping, parse_duration

# --- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("9m", 540),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1d2h3m4s", 93_784),
        ("30m1h", 5400),
        ("90", 90),
        ("0.5", 0.5),
        (" 10m ", 600),
        ("0h5s", 5),
        ("007m", 420),
    ],
)
def test_parse_duration(text: str, seconds: float):
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", " ", "m", "5x", "1 h", "-5m", "+5m", "1h-5m", "0", "0s", "0h0m", "1e3", "1e3s", "nan",
     "inf", "1.h", ".5h", "1.5.2h", "5M", "1:30", "1h30", "30 1h", "soon"],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_examples(text: str):
    with pytest.raises(ConfigError, match=r"is no duration: write 90s, 9m, .* or 1h30m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
    if text:
        with pytest.raises(ConfigError):
            Stopping(text)


PARTS = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from("smhd")), min_size=1, max_size=5
).filter(lambda parts: any(number for number, _ in parts))
IN_SECONDS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}


@given(PARTS)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]):
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert parse_duration(text) == sum(number * IN_SECONDS[unit] for number, unit in parts)


@given(st.floats(0.001, 1e6))
def test_a_bare_number_is_seconds(number: float):
    text = f"{number:.6f}"
    assert parse_duration(text) == parse_duration(text + "s") == float(text)


@given(st.text("0123456789.smhd -+e", max_size=8) | st.text(max_size=8))
def test_whatever_is_written_is_a_duration_above_0_or_refused_in_a_sentence(text: str):
    try:
        seconds = parse_duration(text)
    except ConfigError:
        return
    assert 0 < seconds < math.inf
    assert text.strip()[0].isdigit()


# --- time


def test_without_a_limit_nobody_is_asked():
    none = Stopping()
    assert none.seconds_left is None
    assert not none.asked()
    assert not none.asked(1e9)


def test_asked_once_the_time_left_is_no_more_than_what_is_kept_back():
    hour = Stopping("1h")
    assert 3500 < hour.seconds_left <= 3600
    assert not hour.asked()
    assert not hour.asked(3500)
    assert hour.asked(3600)
    assert hour.asked(1e9)
    over = Stopping("0.01s")
    time.sleep(0.011)
    assert over.seconds_left <= 0
    assert over.asked()


def test_time_runs_from_when_it_was_made():
    one = Stopping("10s")
    time.sleep(0.05)
    assert one.seconds_left <= 9.95
    assert 9.95 < Stopping("10s").seconds_left <= 10


def test_the_error_of_the_clock():
    error = Stopping("1s").error("Stopped at step 3 of 9")
    assert isinstance(error, Stopped)
    assert isinstance(error, MasktasError)
    assert error.exit_code == 75 == os.EX_TEMPFAIL
    assert str(error).startswith("Stopped at step 3 of 9, at the end of --max-time. ")
    assert "same command" in str(error)


# --- SIGTERM


def test_where_nobody_listens_sigterm_stops_at_once(sigterm, capsys):
    with pytest.raises(SystemExit) as caught:
        sigterm()
    assert caught.value.code == 143
    assert "Stopped by SIGTERM" in capsys.readouterr().err


def test_while_someone_listens_sigterm_waits_to_be_looked_at(sigterm):
    one = Stopping()
    with one.listening():
        assert not one.asked()
        sigterm()
        assert one.asked()
        assert one.asked()
        error = one.error("Stopped at step 1")
    assert error.exit_code == 143
    assert "on SIGTERM" in str(error)
    with pytest.raises(SystemExit):
        sigterm()  # nobody listens any more


def test_a_second_sigterm_stops_at_once(sigterm):
    with Stopping().listening():
        sigterm()
        with pytest.raises(SystemExit) as caught:
            sigterm()
    assert caught.value.code == 143


def test_after_it_has_stopped_it_can_listen_afresh(sigterm):
    one = Stopping()

    def loop() -> None:
        with one.listening():
            sigterm()
            raise one.error("Stopped")

    with pytest.raises(Stopped):
        loop()
    assert not one.asked()
    with one.listening():
        assert not one.asked()
        sigterm()
        assert one.asked()


def test_loops_within_loops_listen_until_the_outer_one_is_done(sigterm):
    outer, inner = Stopping(), Stopping()
    with outer.listening():
        with inner.listening():
            sigterm()
            assert inner.asked()
        assert outer.asked()


def test_the_end_of_an_inner_loop_does_not_end_listening(sigterm):
    outer, inner = Stopping(), Stopping()
    with outer.listening():
        with inner.listening():
            pass
        sigterm()
        assert outer.asked()


def test_an_error_within_ends_listening(sigterm):
    with pytest.raises(ZeroDivisionError), Stopping().listening():
        raise ZeroDivisionError
    with pytest.raises(SystemExit):
        sigterm()


PROGRAM = """
import signal, sys, time
from masktas import stopping
from masktas.errors import Stopped
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # importing has no effects
if sys.argv[1] != "plain":
    stopping.install()
try:
    one = stopping.Stopping()
    if sys.argv[1] == "listening":
        with one.listening():
            print("ready", flush=True)
            while not one.asked():
                time.sleep(0.005)
            print("saved", flush=True)
            raise one.error("Stopped at step 3")
    print("ready", flush=True)
    time.sleep(30)
except Stopped as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("listening", 143, "saved\nStopped at step 3, on SIGTERM"), ("outside", 143, ""),
     ("plain", -signal.SIGTERM, "")],
)  # fmt: skip
def test_in_a_process_of_its_own(how: str, code: int, said: str):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out = process.stdout.read()
        assert process.wait(timeout=20) == code
    assert out.startswith(said)
    assert bool(out) == bool(said)
