"""Files that are written whole or not at all: text, JSON and lines."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest

from masktas import files
from masktas.artifacts import MANIFEST
from masktas.errors import ArtifactError
from masktas.files import (
    append_lines,
    file_digest,
    read_json,
    read_lines,
    write_atomic,
    write_json,
    write_text,
)
from worlds import names


def on_a_disk_of(size, code):
    """Run code in a process whose files cannot grow beyond `size` bytes."""
    limited = (
        "import resource, sys\n"
        "sys.dont_write_bytecode = True\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "from pathlib import Path\n"
        "from masktas import files\n"
        "from masktas.errors import ArtifactError\n"
        "try:\n"
        f"    {code}\n"
        "except ArtifactError as error:\n"
        "    print('refused:', error)\n"
    )
    return subprocess.run(
        [sys.executable, "-B", "-c", limited], capture_output=True, text=True, check=True
    ).stdout


# --- whole or not at all


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    assert names(path.parent) == ["file.txt"]
    write_text(path, "other")
    assert path.read_text() == "other"
    assert names(path.parent) == ["file.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"old")

    def fill(temporary):
        temporary.write_bytes(b"half of the ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ArtifactError, match=r"weights: cannot be written \(No space left on dev"):
        write_atomic(path, fill)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["weights"]


def test_a_full_disk_where_nothing_was_leaves_nothing(tmp_path):
    def fill(temporary):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ArtifactError, match="cannot be written"):
        write_atomic(tmp_path / "weights", fill)
    assert names(tmp_path) == []


def test_a_file_that_the_system_cuts_short_is_not_moved_into_place(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": True})
    said = on_a_disk_of(1000, f"files.write_text(Path({str(path)!r}), 'x' * 5000)")
    assert said.startswith("refused: ")
    assert "cannot be written" in said
    assert read_json(path) == {"old": True}
    assert names(tmp_path) == ["file.json"]


def test_another_error_of_the_writer_passes_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []

    def write(temporary):
        temporary.write_text("new")
        seen.append((path.read_text(), temporary.parent, temporary.name))

    write_atomic(path, write)
    (old, folder, name) = seen[0]
    assert old == "old"
    assert folder == tmp_path
    assert name not in ("file", MANIFEST)
    assert path.read_text() == "new"


@pytest.mark.parametrize("inside", ["file.json", "teacher/file.json"])
def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path, inside):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_json(tmp_path / "out" / inside, {})
    with pytest.raises(ArtifactError, match="cannot be written"):
        append_lines(tmp_path / "out" / inside, ["{}"])
    assert (tmp_path / "out").read_text() == "not a folder"


def test_temporary_files_have_names_that_nobody_can_guess(tmp_path):
    made = []
    for _ in range(2):
        write_atomic(tmp_path / "x", lambda path: made.append(path.name) or path.write_text("1"))
    assert len(set(made)) == 2
    assert all(str(os.getpid()) not in name for name in made)


def test_files_and_folders_are_synced_before_and_after_a_rename(tmp_path, monkeypatch):
    """A power cut must not leave a name over missing content: the order of calls is the proof."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        calls.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def replaced(source, target):
        calls.append(("replace", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", replaced)
    write_text(tmp_path / "x", "1")
    temporary = calls[0][1]
    assert calls == [
        ("sync", temporary),
        ("replace", temporary, str(tmp_path / "x")),
        ("sync", str(tmp_path)),
    ]
    calls.clear()
    append_lines(tmp_path / "lines.jsonl", ["{}"])
    assert calls == [("sync", str(tmp_path / "lines.jsonl"))]
    calls.clear()
    write_text(tmp_path / "new" / "folder" / "x", "1")  # the names of new folders are stored, too
    assert {("sync", str(tmp_path)), ("sync", str(tmp_path / "new"))} <= set(calls[:2])


# --- JSON


@pytest.mark.parametrize("content", [{}, [1, 2.5, None], {"a": {"b": ["ü", 1e-300, 0.1 + 0.2]}}])
def test_json_comes_back_exactly(tmp_path, content):
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content
    assert (tmp_path / "file.json").read_text().endswith("\n")


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"a": 1} x', b"\xff\xfe{}"])
def test_damaged_json_is_named(tmp_path, damaged):
    path = tmp_path / "file.json"
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"file\.json: damaged, not JSON"):
        read_json(path)


def test_json_that_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match=r"file\.json: cannot be read \(No such file"):
        read_json(tmp_path / "file.json")


# --- lines


def test_lines_are_appended(tmp_path):
    path = tmp_path / "logs" / "lines.jsonl"
    append_lines(path, ['{"a": 1}'])
    append_lines(path, ['{"a": 2}', '{"a": 3}'])
    append_lines(path, [])
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    assert read_lines(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_no_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("torn", ["{", '{"a": 2', '{"a": 2}'])
@pytest.mark.parametrize("before", ["", '{"a": 1}\n'])
def test_a_torn_line_is_not_read_and_cut_before_the_next(tmp_path, before, torn):
    path = tmp_path / "lines.jsonl"
    path.write_text(before + torn)
    whole = [{"a": 1}] if before else []
    assert read_lines(path) == whole
    append_lines(path, ['{"a": 9}'])
    assert path.read_text() == before + '{"a": 9}\n'
    assert read_lines(path) == [*whole, {"a": 9}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a":\n{"a": 3}\n')
    with pytest.raises(ArtifactError, match=r"lines\.jsonl: line 2 is damaged"):
        read_lines(path)


def test_lines_that_are_not_text_are_damaged_too(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n\xff\xfe\n')
    with pytest.raises(ArtifactError, match=r"lines\.jsonl"):
        read_lines(path)


def test_a_folder_in_the_place_of_lines_is_one_sentence(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be written"):
        append_lines(tmp_path, ["{}"])


def test_lines_that_a_full_disk_cuts_short_go_on_whole(tmp_path):
    path = tmp_path / "lines.jsonl"
    line = json.dumps({"text": "x" * 88})
    append_lines(path, [line] * 9)
    said = on_a_disk_of(1000, f"files.append_lines(Path({str(path)!r}), {[line]!r} * 5)")
    assert said.startswith("refused: ")
    assert path.stat().st_size == 1000
    kept = read_lines(path)
    assert len(kept) == 1000 // (len(line) + 1)
    assert kept == [json.loads(line)] * len(kept)
    append_lines(path, ['{"a": 9}'])
    assert read_lines(path) == [*kept, {"a": 9}]


def test_digest(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
