"""Pipes, devices, links, strange names and odd lists: an item's problem or one sentence."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from archives import items_of
from masktas.data.sources import open_source
from masktas.errors import DataError, LabelError


def test_pipes_sockets_devices_and_loops_are_not_waited_for(tmp_path, noise):
    (tmp_path / "good.png").write_bytes(noise(1))
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(tmp_path)  # names of sockets must be short
        listening.bind("socket.png")
        os.chdir(here)
        problems = {item.name: item.problem for item in items_of(open_source(tmp_path))}
    assert problems == {
        "good.png": "",
        "pipe.jpg": "not a regular file",
        "socket.png": "not a regular file",
        "zero.png": "not a regular file",
        "loop.png": f"cannot be read ({os.strerror(errno.ELOOP)})",
        "gone.png": f"cannot be read ({os.strerror(errno.ENOENT)})",
    }


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.parquet", "a.txt", "photos"])
def test_pipe_given_as_the_source_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.parquet"])
def test_pipe_among_archives_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        items_of(open_source(tmp_path))


def test_links_that_go_round_are_walked_once(tmp_path, noise):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(noise(1))
    (tmp_path / "a" / "b").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "c")
    assert [item.name for item in items_of(open_source(tmp_path))] == ["a/1.png"]


def test_file_that_may_not_be_read_is_an_item_with_its_problem(tmp_path, noise, monkeypatch):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(noise(1))
    really = os.open

    def refuse(path, *rest, **more):
        if str(path).endswith("2.png"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)  # the tests may run as one who may read anything
    first, second = items_of(open_source(tmp_path))
    assert first.content == noise(1)
    assert second.problem == "cannot be read (Permission denied)"


def test_folder_that_may_not_be_listed_is_not_missed_in_silence(tmp_path, noise, monkeypatch):
    for name in ("cat/1.png", "locked/2.png", "zebra/3.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(noise(1))
    really = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = items_of(open_source(tmp_path))
    assert [item.name for item in items] == ["cat/1.png", "locked/", "zebra/3.png"]
    assert items[1].problem == "not a regular file"
    monkeypatch.setattr(os, "listdir", lambda path: (_ for _ in ()).throw(
        PermissionError(errno.EACCES, "Permission denied", path)))  # fmt: skip
    with pytest.raises(DataError, match=r"cannot be opened \(Permission denied\)"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["two\nlines.png", "Grüße 😀.png", "tab\there.png", " blank .png", "-rf.png", "a'b\"c.png",
     "\x1b[31mred.png", "right-to-left \u202egnp.png"],
)  # fmt: skip
def test_strange_names_are_read_and_shown_in_one_line(tmp_path, noise, name):
    (tmp_path / name).write_bytes(noise(1))
    (item,) = items_of(open_source(tmp_path))
    assert item.content == noise(1)
    assert item.name.isprintable()


def test_names_that_are_no_text_are_read_too(tmp_path, noise):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(raw, "wb") as file:
        file.write(noise(1))
    source = open_source(tmp_path)
    (item,) = items_of(source)
    assert item.content == noise(1)
    item.name.encode()
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\n")
    (item,) = items_of(open_source(tmp_path / "list.txt"))
    assert item.content == noise(1)


@pytest.mark.parametrize(
    ("lines", "label"),
    [
        ("{0}\r\n{1}\r\n", None),
        ("\ufeff{0}\n{1}", None),
        ("# comment\n\n{0}\n   \n{1}\n", None),
        ("{0}\tcat\n{1}\tcat\n", "cat"),
        ("{0},cat\n{1}, cat\n", "cat"),
        ("{0} cat\n{1}  cat\n", "cat"),
        ("0\t7\t{0}\n1\t7\t{1}\n", "7"),  # as MXNet has it
        ("image,label\n{0},cat\n{1},cat\n", "cat"),
        ("./{0}\n./{1}\n", None),
    ],
)
def test_lists_are_read_as_people_write_them(tmp_path, noise, lines, label):
    names = ["one, two.png", "three four.png"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(noise(number))
    (tmp_path / "list.txt").write_text(lines.format(*names), newline="")
    source = open_source(tmp_path / "list.txt")
    assert [item.content for item in items_of(source)] == [noise(0), noise(1)]
    if label is not None:
        assert source.labels(0) == [label, label]


def test_list_in_windows_wide_characters_is_read(tmp_path, noise):
    (tmp_path / "größe.png").write_bytes(noise(1))
    (tmp_path / "list.csv").write_bytes('"größe.png";x\r\n'.replace(";", ",").encode("utf-16"))
    assert [item.content for item in items_of(open_source(tmp_path / "list.csv"))] == [noise(1)]


def test_missing_and_impossible_files_of_a_list_are_items_with_a_problem(tmp_path, noise):
    (tmp_path / "1.png").write_bytes(noise(1))
    (tmp_path / "list.txt").write_text("gone.png\n1.png\nzero\0byte.png\n" + "x" * 5000 + ".png\n")
    found = items_of(open_source(tmp_path / "list.txt"))
    assert [item.content is not None for item in found] == [False, True, False, False]
    assert all(item.problem for item in found if item.content is None)


def test_list_with_some_labels_names_the_image_without(tmp_path, noise):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(noise(number))
    (tmp_path / "list.tsv").write_text("0.png\tcat\n1.png\n2.png\tdog\n")
    with pytest.raises(LabelError, match=r"1\.png has no label"):
        open_source(tmp_path / "list.tsv").labels(0)


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{1..99999}{1..99999}.tar"])
def test_braces_that_stand_for_too_many_are_refused(tmp_path, pattern):
    with pytest.raises(DataError, match="expands to more than 100,000 files"):
        open_source(f"{tmp_path}/{pattern}")
