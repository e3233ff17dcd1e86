"""What a person sees: lines where there is no terminal, nothing but warnings when quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console as RichConsole

from masktas import console as console_module
from masktas.console import Bar, Console
from masktas.formats import format_seconds


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def test_sentences_go_to_standard_error(capsys):
    Console().say("Reading photos.")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "Reading photos.\n"


def test_long_sentences_stay_on_one_line(capsys):
    sentence = "a path/that/is/long/and/has/no/end " * 20 + "."
    Console().say(sentence)
    assert capsys.readouterr().err == sentence + "\n"


@pytest.mark.parametrize("text", ["[red]photos[/red]", "cats [1, 2]", "[/x]", "photos/:cat:/1.jpg"])
def test_what_is_said_is_printed_as_it_is(capsys, text):
    Console().say(text)
    Console().warn(text)
    assert capsys.readouterr().err == f"{text}\nWarning: {text}\n"


def test_bar_without_terminal_prints_its_end_as_a_line(capsys):
    with Console().bar("teacher", 3) as bar:
        for done in range(1, 4):
            bar.update(done, f"loss {done}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "teacher: 3/3 loss 3 (0 s left)\n"


def test_bar_without_terminal_prints_a_line_now_and_then(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now)
    with Console().bar("teacher", 100) as bar:
        for done in range(1, 41):
            now += 1.0
            bar.update(done, "loss 1")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "teacher: 10/100 loss 1 (90 s left)",
        "teacher: 20/100 loss 1 (80 s left)",
        "teacher: 30/100 loss 1 (70 s left)",
        "teacher: 40/100 loss 1 (60 s left)",
    ]


def test_time_left_of_a_resumed_bar_counts_its_own_steps_only(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now)
    with Console().bar("teacher", 100, start=80) as bar:
        now = 20.0
        bar.update(90)
    assert "90/100" in (err := capsys.readouterr().err)
    assert "(20 s left)" in err


def test_bar_on_a_terminal_is_drawn_and_cleaned_up():
    file = io.StringIO()
    rich = RichConsole(file=file, force_terminal=True, width=100)
    with Bar(rich, "teacher", 7) as bar:
        for done in range(1, 8):
            bar.update(done, "loss 0.5")
    drawn = file.getvalue()
    assert "teacher" in drawn
    assert "7/7" in drawn
    assert "loss 0.5" in drawn
    assert drawn.rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_bar_is_closed_when_the_loop_fails():
    file = io.StringIO()
    rich = RichConsole(file=file, force_terminal=True, width=100)
    with pytest.raises(RuntimeError, match="in the loop"), Bar(rich, "teacher", 7):
        raise RuntimeError("in the loop")
    assert "\x1b[?25h" in file.getvalue()


def test_bar_without_an_end_counts(capsys, monkeypatch):
    monkeypatch.setattr("masktas.console.LINE_SECONDS", 0.0)
    with Console().bar("decoding", None) as bar:
        bar.update(1)
        bar.update(2)
    assert capsys.readouterr() == ("", "decoding: 1 \ndecoding: 2 \n")


def test_quiet_prints_nothing_but_warnings(capsys):
    console = Console(quiet=True)
    console.say("Reading photos.")
    console.table("Results", ["name", "accuracy"], [["a", "0.5"]])
    console.warn("One image was skipped.")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "Warning: One image was skipped.\n"


def test_a_warning_can_be_printed_once(capsys):
    console = Console()
    for text in ("Slow.", "Slow.", "Few.", "Slow."):
        console.warn(text, once=True)
    console.warn("Slow.")
    assert capsys.readouterr().err == "Warning: Slow.\nWarning: Few.\nWarning: Slow.\n"


def test_quiet_bars_print_nothing(capsys):
    console = Console(quiet=True)
    with console.bar("teacher", 3) as bar:
        bar.update(3, "loss 1")
    assert capsys.readouterr() == ("", "")


def test_table_shows_every_cell_and_nothing_on_standard_output(capsys):
    Console().table("Results", ["name", "accuracy"], [["first", "0.5"], ["second", "12.25"]])
    out, err = capsys.readouterr()
    assert out == ""
    assert all(word in err for word in ("Results", "name", "accuracy", "first", "0.5", "12.25"))
    ends = [
        line.rstrip(" │┃|").rstrip() for line in err.splitlines() if "0.5" in line or "12." in line
    ]
    assert len({len(line) for line in ends}) == 1  # numbers are right-aligned


@pytest.mark.parametrize("cell", ["[train]", "[/x]", ":cat:"])
def test_table_cells_are_printed_as_they_are(capsys, cell):
    Console().table("Results", ["name", "count"], [[cell, "1"]])
    assert cell in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (99.4, "99 s"),
        (100, "1:40 min"),
        (200, "3:20 min"),
        (605, "10:05 min"),
        (5999, "99:59 min"),
        (5999.7, "1:40 h"),
        (6000, "1:40 h"),
        (2 * 3600 + 5 * 60, "2:05 h"),
        (86_400, "24:00 h"),
        (400_000, "111:06 h"),
    ],
)
def test_durations_are_written_as_people_read_them(seconds, text):
    assert format_seconds(seconds) == text


def test_terminal_escapes_are_printed_as_text(capsys):
    said = Console()
    said.say("a\x1b[31m\nb")
    said.warn("a\x1b]0;title\x07\nb")
    said.table("T\x1b", ["n\x1b"], [["c\x1b\u202e"]])
    with said.bar("l\x1b", 1) as bar:
        bar.update(1, "t\x1b")
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert "\u202e" not in err
    for words in ("a\\x1b[31m\nb", "a\\x1b]0;title\\x07\\nb", "c\\x1b\\u202e"):
        assert words in err
    assert "l\\x1b: 1/1 t\\x1b" in err
