"""Files that a user gives: what cannot be read is refused in one sentence and at once."""

from __future__ import annotations

import importlib
import json
import os
import time

import pytest

from masktas.cli import main
from masktas.documents import MAX_TOML_BYTES, read_document
from masktas.errors import SpaceError
from masktas.space import SearchSpace

FIELDS = {"embed_dim": [64], "depth": [2], "num_heads": [1], "mlp_ratio": [2, 4]}


def refused(capsys, *tokens) -> str:
    """Return the sentence that the command line refuses with, soon."""
    importlib.import_module("masktas.stages.run")  # and torch, which takes its time
    began = time.process_time()
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert err.startswith("masktas: ")
    assert err.count("\n") == 1
    assert time.process_time() - began < 3
    return err


@pytest.fixture(params=["nested", "pipe", "device", "large"])
def bad(request, tmp_path):
    """Return a function that writes a file that cannot be read, with a suffix."""

    def write(suffix: str):
        path = tmp_path / f"bad{suffix}"
        if request.param == "nested":
            path.write_text("x = " * (suffix == ".toml") + "[" * 100_000)
        elif request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        else:
            path.touch()
            os.truncate(path, 2**40)
        return path

    return write


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_spaces_and_documents_that_cannot_be_read(bad, suffix, tmp_path, capsys):
    path = bad(suffix)
    with pytest.raises(SpaceError, match=r"cannot be read|can be read"):
        SearchSpace.load(path)
    out = tmp_path / "out"
    assert "bad" in refused(capsys, "run", tmp_path, "--out", out, "--space", path)
    assert not out.exists()


def test_configurations_that_cannot_be_read(bad, tmp_path, capsys):
    out = tmp_path / "out"
    assert "bad" in refused(capsys, "run", tmp_path, "--out", out, "--config", bad(".toml"))
    assert not out.exists()


def test_reference_networks_that_cannot_be_read(bad, tmp_path, capsys):
    out, limit = tmp_path / "out", f"80% of {bad('.json')}"
    assert "bad" in refused(
        capsys, "run", tmp_path, "--out", out, "--space", "tiny", "--max-params", limit
    )
    assert not out.exists()


def test_latency_model_without_a_target_is_refused(tmp_path, capsys):
    fields = {"schema": 1, "target": 5, "fixed": {}, "stem": [], "attention": [], "mlp": []}
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({**fields, "held_out": {}}))
    assert "not a latency model" in refused(capsys, "show", path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embed_dim", list(range(1, 100_001))),
        ("mlp_ratio", [1 + number / 10**6 for number in range(10_000)]),
        ("depth", [10_000]),
        ("depth", [10**400]),
        ("embed_dim", [10**9]),
        ("num_heads", [10**6]),
        ("head_dim", 10**6),
        ("image_size", 10**6),
        ("in_channels", 10**9),
        ("num_classes", 10**12),
    ],
)
def test_absurd_spaces_are_refused(field, value, tmp_path, capsys):
    path = tmp_path / "absurd.json"
    fields = FIELDS | {"head_dim": 8, "image_size": 32, "patch_size": 4, field: value}
    path.write_text(json.dumps(fields))
    assert field in refused(capsys, "show", path)


def test_deep_architectures_are_refused(tmp_path, capsys):
    path = tmp_path / "architecture.json"
    fields = {"embed_dim": 64, "num_heads": [1] * 10_000, "mlp_ratio": [4] * 10_000}
    path.write_text(json.dumps(fields))
    assert "at most 256 blocks" in refused(capsys, "show", path)


def test_terminal_escapes_are_printed_as_text(tmp_path, capsys):
    assert "\\x1b[31m" in refused(capsys, "show", "no\x1b[31m\nsuch")
    said = refused(capsys, "search", "--out", tmp_path / "out", "--name", "\x1b[31mred")
    assert "\x1b" not in said
    assert not (tmp_path / "out").exists()


def test_files_up_to_the_limit_are_read(tmp_path):
    path = tmp_path / "space.toml"
    text = "\n".join(f"{key} = {value}" for key, value in FIELDS.items())
    path.write_text(f"{text}\n#".ljust(MAX_TOML_BYTES, "."))
    assert read_document(path, SpaceError, "TOML") == FIELDS
