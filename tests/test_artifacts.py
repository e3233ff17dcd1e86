"""The run folder: files whole or not at all, stages that go on or refuse."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from masktas import artifacts, files
from masktas.artifacts import HISTORY, LOCK, MANIFEST, SETTINGS, Run, Stage, versions
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


def names(folder):
    """List a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


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


def test_temporary_files_have_names_that_nobody_can_guess(tmp_path):
    made = []
    for _ in range(2):
        write_atomic(tmp_path / "x", lambda path: made.append(path.name) or path.write_text("1"))
    assert len(set(made)) == 2
    assert all(str(os.getpid()) not in name for name in made)


def test_no_link_in_a_run_folder_is_written_through(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "known")
    for name in (".x.known.tmp", "lines.jsonl", LOCK):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_text(tmp_path / "x", "changed")
    with pytest.raises(ArtifactError, match="cannot be written"):
        append_lines(tmp_path / "lines.jsonl", ["{}"])
    with pytest.raises(OSError, match="symbolic links"):
        Stage("teacher", tmp_path).lock()
    assert victim.read_text() == "untouched"


def test_a_file_system_without_locks_is_named(stage, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(artifacts.fcntl, "lockf", fails)
    with pytest.raises(ArtifactError, match="has no locks") as caught:
        stage.lock()
    assert "another masktas" not in str(caught.value)


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


# --- stages

SETTING = {"epochs": 5, "crop_scale": [0.2, 1.0], "images": {"location": "/data", "limit": None}}


@pytest.fixture
def stage(tmp_path):
    return Stage("teacher", tmp_path / "run" / "teacher")


def claim(stage, settings):
    """Begin a stage and leave something that was made in it."""
    stage.begin(settings)
    (stage.folder / "metrics.jsonl").write_text("{}\n")


def finish(stage, **content):
    """Begin and finish a stage with one parent; return the manifest."""
    parent = stage.folder.parent / "parent"
    stage.begin(SETTING)
    parent.write_bytes(b"weights")
    return stage.finish({"seconds": 1.5, "cost": {}, "images": {}, **content}, {"supernet": parent})


def test_a_stage_is_begun_gone_on_with_and_finished(stage):
    assert stage.begin(SETTING) is True
    assert stage.finished is False
    assert read_json(stage.folder / SETTINGS) == json.loads(json.dumps(SETTING))
    assert stage.begin(SETTING) is True
    finish(stage)
    assert stage.finished is True
    before = (stage.folder / MANIFEST).read_bytes()
    assert stage.begin(SETTING) is False
    assert (stage.folder / MANIFEST).read_bytes() == before


def test_a_manifest_says_what_was_made_from_what_by_what(stage):
    written = finish(stage, accuracy=62.5)
    manifest = stage.manifest()
    assert manifest == json.loads(json.dumps(written))
    assert manifest["stage"] == "teacher"
    assert manifest["settings"] == json.loads(json.dumps(SETTING))
    assert manifest["seconds"] == 1.5
    assert manifest["accuracy"] == 62.5
    assert manifest["parents"] == {
        "supernet": {"file": "../parent", "sha256": hashlib.sha256(b"weights").hexdigest()}
    }
    assert manifest["versions"] == versions()
    assert {"python", "masktas", "torch", "numpy"} <= set(manifest["versions"])
    assert manifest["finished"].endswith("Z")


@pytest.mark.parametrize("done", [False, True], ids=["begun", "finished"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 6}, r"epochs: 5 there, 6 now"),
        ({"images": {"location": "/other", "limit": None}}, r"images\.location: '/data' there"),
        ({"images": {"location": "/data", "limit": 7}}, r"images\.limit: None there, 7 now"),
        ({"crop_scale": [0.3, 1.0]}, r"crop_scale: \[0\.2, 1\.0\] there"),
        ({"lr": 0.1}, r"lr: None there, 0\.1 now"),
        ({"lr": None}, r"\(lr: "),
    ],
)
def test_other_settings_are_refused_naming_the_difference(stage, done, change, named):
    claim(stage, SETTING)
    if done:
        finish(stage)
    before = names(stage.folder)
    with pytest.raises(ArtifactError, match=f"other settings .*{named}"):
        stage.begin({**SETTING, **change})
    assert names(stage.folder) == before
    assert stage.begin(SETTING) is not done


def test_settings_that_an_earlier_version_did_not_have_are_their_defaults(stage):
    claim(stage, {"settings": {"epochs": 5}, "seed": 0})
    now = {"settings": {"epochs": 5, "ema": 0.0}, "seed": 0}
    assert stage.begin(now, defaults={"epochs": 9, "ema": 0.0}) is True
    with pytest.raises(ArtifactError, match=r"settings\.ema: 0\.0 there, 0\.9 now"):
        stage.begin({"settings": {"epochs": 5, "ema": 0.9}, "seed": 0}, defaults={"ema": 0.0})
    with pytest.raises(ArtifactError, match=r"settings\.ema: None there"):
        stage.begin({"settings": {"epochs": 5, "ema": 0.0}, "seed": 0})


def test_a_tuple_is_what_json_makes_of_it(stage):
    claim(stage, {"crop_scale": (0.2, 1.0), "epochs": 5})
    assert stage.begin({"crop_scale": (0.2, 1.0), "epochs": 5}) is True
    assert stage.begin({"crop_scale": [0.2, 1.0], "epochs": 5}) is True
    with pytest.raises(ArtifactError, match=r"\(epochs: 5 there, 6 now\)"):
        stage.begin({"crop_scale": (0.2, 1.0), "epochs": 6})


def test_a_claim_that_came_to_nothing_is_replaced(stage):
    stage.begin(SETTING)
    assert stage.begin({**SETTING, "epochs": 6}) is True
    assert read_json(stage.folder / SETTINGS)["epochs"] == 6


def test_a_refusal_says_how_to_go_on(stage):
    claim(stage, SETTING)
    with pytest.raises(ArtifactError, match=r"another --out .*--overwrite"):
        stage.begin({**SETTING, "epochs": 6})


def test_the_order_of_settings_does_not_matter(stage):
    stage.begin(SETTING)
    assert stage.begin(dict(reversed(SETTING.items()))) is True


def test_overwrite_starts_afresh(stage):
    finish(stage)
    (stage.folder / "weights").write_bytes(b"old")
    assert stage.begin({**SETTING, "epochs": 6}, overwrite=True) is True
    assert names(stage.folder) == [SETTINGS]
    assert read_json(stage.folder / SETTINGS)["epochs"] == 6
    assert stage.finished is False


@pytest.mark.parametrize("kills_after", range(6))
def test_a_killed_overwrite_is_finished_by_the_next_start(stage, monkeypatch, kills_after):
    """Whatever is deleted first, nothing of the old content is resumed under new settings."""
    assert stage.begin({"lr": 1})
    for number in range(2):
        write_text(stage.folder / "checkpoints" / f"{number}", "old")
    write_text(stage.folder / "weights", "old")
    write_text(stage.folder / "manifest.json", "{}")
    left = iter(range(kills_after))

    def dying(remove):
        def one(*arguments, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            remove(*arguments, **options)

        return one

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.shutil, "rmtree", dying(artifacts.shutil.rmtree))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        try:
            stage.begin({"lr": 2}, overwrite=True)
        except KeyboardInterrupt:
            pass
        else:
            assert kills_after == 5
    assert stage.begin({"lr": 2})
    assert names(stage.folder) == [SETTINGS]
    assert read_json(stage.folder / SETTINGS) == {"lr": 2}


def test_overwrite_removes_links_and_leaves_what_they_point_to(stage, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_text(elsewhere / "events", "kept")
    stage.begin({"lr": 1})
    (stage.folder / "tensorboard").symlink_to(elsewhere)
    (stage.folder / "log").symlink_to(elsewhere / "events")
    (stage.folder / "weights").write_text("old")
    assert stage.begin({"lr": 2}, overwrite=True)
    assert names(stage.folder) == [SETTINGS]
    assert (elsewhere / "events").read_text() == "kept"


def test_overwrite_where_nothing_is(stage):
    assert stage.begin(SETTING, overwrite=True) is True


@pytest.mark.parametrize("begun", [False, True])
def test_a_manifest_that_is_not_there_names_the_command(stage, begun):
    if begun:
        stage.begin(SETTING)
    state = "not finished" if begun else "missing"
    with pytest.raises(ArtifactError, match=f"teacher stage is {state}.*`masktas teacher`"):
        stage.manifest()


@pytest.mark.parametrize("file", [MANIFEST, SETTINGS])
@pytest.mark.parametrize("content", ["", "{", "no"])
def test_a_damaged_file_of_a_stage_is_named(stage, file, content):
    finish(stage)
    (stage.folder / file).write_text(content)
    with pytest.raises(ArtifactError, match=f"{file}: damaged, not JSON"):
        stage.manifest() if file == MANIFEST else stage.begin(SETTING)


@pytest.mark.parametrize("content", ["[]", "{}", "7", '{"schema": 99}'])
def test_a_manifest_of_another_version_is_refused(stage, content):
    finish(stage)
    (stage.folder / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json: written by another version"):
        stage.manifest()


def test_a_finished_stage_without_its_settings_is_refused(stage):
    finish(stage)
    (stage.folder / SETTINGS).unlink()
    with pytest.raises(ArtifactError, match=r"settings\.json is missing: use --overwrite"):
        stage.begin(SETTING)


# --- the run


def test_a_run_has_a_folder_for_each_stage():
    run = Run(Path("RUN"))
    folders = {
        run.teacher: ("teacher", "RUN/teacher"),
        run.supernet: ("supernet", "RUN/supernet"),
        run.search(): ("search", "RUN/search/main"),
        run.search("6M"): ("search", "RUN/search/6M"),
        run.finetune("6M"): ("finetune", "RUN/finetune/6M"),
        run.validated("band"): ("validate", "RUN/validate/band"),
    }
    for stage, (name, folder) in folders.items():
        assert (stage.name, stage.folder) == (name, Path(folder))
    assert run.report == Path("RUN/report.html")


def test_finished_stages_are_listed_in_order(tmp_path):
    run = Run(tmp_path)
    assert run.stages() == []
    run.supernet.begin({})
    finished = [run.teacher, run.search("a"), run.search("z"), run.finetune("b"), run.validated()]
    for stage in (finished[4], finished[2], finished[0], finished[3], finished[1]):
        stage.begin({})
        stage.finish({}, {})
    assert run.stages() == finished
    assert run.named("search") == [run.search("a"), run.search("z")]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_parent_that_is_no_regular_file_is_refused(stage, kind):
    stage.folder.mkdir(parents=True, exist_ok=True)
    pipe = stage.folder / "pipe"
    os.mkfifo(pipe)
    parents = {"teacher": {"file": "pipe" if kind == "pipe" else "/dev/zero", "sha256": ""}}
    content = {"schema": 1, "settings": {}, "cost": {}, "images": {}, "parents": parents,
               "versions": {}, "winner": {}, "test": {}, "verdict": {}}  # fmt: skip
    (stage.folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="which is not a regular file"):
        stage.require_fresh()


def test_overwrite_starts_afresh_although_settings_and_manifest_are_gone(tmp_path):
    stage = Run(tmp_path).search()
    stage.lock()
    assert stage.begin({"seed": 0})
    (stage.folder / HISTORY).write_text("{}\n")
    (stage.folder / SETTINGS).unlink()
    assert stage.begin({"seed": 1}, overwrite=True)
    assert not (stage.folder / HISTORY).exists()


def test_overwrite_keeps_files_of_a_folder_in_which_no_stage_has_worked(tmp_path):
    stage = Run(tmp_path).teacher
    stage.folder.mkdir()
    (stage.folder / "photo.jpg").write_bytes(b"mine")
    assert stage.begin({"seed": 1}, overwrite=True)
    assert (stage.folder / "photo.jpg").exists()
