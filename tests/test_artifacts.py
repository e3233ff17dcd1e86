"""The run folder: stages that resume or refuse, overwrite, and are locked."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from masktas import artifacts, files
from masktas.artifacts import HISTORY, LOCK, MANIFEST, SETTINGS, Run, Stage, versions
from masktas.errors import ArtifactError
from masktas.files import append_lines, read_json, write_text
from worlds import names

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


# --- overwrite


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


# --- links and locks


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
