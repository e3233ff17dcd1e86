"""Lines of lists of images, and patterns: read in linear time."""

from __future__ import annotations

import time

import pytest
from PIL import Image

from masktas.data.sources.lists import _split
from masktas.data.sources.open import open_source
from masktas.data.sources.patterns import expand_braces
from masktas.errors import DataError


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ("a.jpg", ["a.jpg"]),
        ("a b.jpg", ["a b.jpg"]),
        ("a.jpg cat", ["a.jpg", "cat"]),
        (" a b.jpg   cat ", ["a b.jpg", "cat"]),
        ("a.jpg , big cat", ["a.jpg", "big cat"]),
        ("a,b.jpg,cat", ["a,b.jpg", "cat"]),
        ("a.jpg,", ["a.jpg", ""]),
        ("a.jpg, b cat", ["a.jpg", "b cat"]),
        ("cat a.jpg", ["cat a.jpg"]),
        ("a.jpg\tcat", ["a.jpg", "cat"]),
        ("a.jpg,b.jpg cat", ["a.jpg", "b.jpg cat"]),
        ("one two three", ["one two three"]),
    ],
)
def test_a_line_is_split_into_path_and_label(line, cells):
    assert _split(line) == cells


@pytest.mark.parametrize(
    "line",
    [f"a{' ' * 100_000}b{' ' * 100_000}.", "a" + " ," * 100_000 + ".", " " * 200_000],
)
def test_long_lines_are_split_at_once(line):
    began = time.process_time()
    assert _split(line) == [line.strip()]
    assert time.process_time() - began < 0.1


def test_long_patterns_are_read_at_once():
    pattern = "{" + "," * 100_000
    began = time.process_time()
    assert expand_braces(pattern) == [pattern]
    assert time.process_time() - began < 0.5


def test_folders_that_cannot_be_looked_into_are_named(tmp_path, monkeypatch):
    from masktas.data.sources import open as opening

    monkeypatch.setattr(opening, "walk", lambda *_: iter(["deep/er/"]))
    with pytest.raises(DataError, match=r"1 folders could not be looked into, such as deep/er/\."):
        open_source(str(tmp_path))


@pytest.mark.parametrize("absolute", [False, True])
def test_images_below_test_are_test_images_however_they_are_listed(tmp_path, absolute):
    for name in ("test/a.png", "train/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    folder = f"{tmp_path}/" if absolute else ""
    (tmp_path / "all.txt").write_text(f"{folder}test/a.png\n{folder}train/b.png\n")
    source = open_source(tmp_path / "all.txt")
    assert [source.read(0, number).is_test for number in (0, 1)] == [True, False]
