"""Where an export goes: nothing is half-written there, and nothing of others is deleted."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import masktas
from masktas.errors import ArtifactError, ConfigError
from masktas.stages.export import torch_form
from used import save_classifier
from worlds import started


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placed") / "net"
    save_classifier(folder)
    return folder


def test_nothing_is_left_half_written(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".out.partial" / "onnx").mkdir(parents=True)  # of a process that was killed
    (tmp_path / ".out.partial" / "onnx" / "model.onnx").write_bytes(b"half")
    masktas.export(net, out=tmp_path / "out", to="torch", num_images=4)
    names = [
        "README.md", "architecture.json", "input.json", "model.py", "model.safetensors",
        "parity.json",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == names
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_form, "source_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        masktas.export(net, out=tmp_path / "out", to="timm,torch", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_same_command_again_does_nothing_and_another_is_refused(
    net: Path, tmp_path: Path
) -> None:
    first = masktas.export(net, out=tmp_path / "out", to="torch", num_images=4)
    assert masktas.export(net, out=tmp_path / "out", to="torch", num_images=4) == first
    with pytest.raises(ArtifactError, match=r"of other forms.*--overwrite"):
        masktas.export(net, out=tmp_path / "out", to="timm", num_images=4)
    masktas.export(net, out=tmp_path / "out", to="timm", num_images=4, overwrite=True)
    assert not (tmp_path / "out" / "model.py").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ArtifactError, match=r"no export of masktas.*another --out"):
        masktas.export(net, out=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_what_is_not_of_an_export_is_never_deleted(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "clone"
    masktas.export(net, out=out, to="torch", num_images=4)
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("ref")
    with pytest.raises(ArtifactError, match=r"HEAD is not part of an export.*would delete it"):
        masktas.export(net, out=out, to="timm", num_images=4, overwrite=True)
    shutil.rmtree(out / ".git")
    (out / "notes").symlink_to(tmp_path)  # of a folder, which is not emptied through it
    with pytest.raises(ArtifactError, match="notes is not part of an export"):
        masktas.export(net, out=out, to="timm", num_images=4, overwrite=True)
    (out / "notes").unlink()
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "model.pyc").write_text("")
    with pytest.raises(ConfigError, match="holds the network itself"):
        masktas.export(out, out=out, to="timm", num_images=4, overwrite=True)
    assert {"model.py", "model.safetensors"} <= {one.name for one in out.iterdir()}
    masktas.export(net, out=out, to="timm", num_images=4, overwrite=True)  # model.py has been run
    assert not (out / "__pycache__").exists()


def test_a_place_that_cannot_be_written_is_said(net: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be written \(.*choose another --out"):
        masktas.export(net, out=tmp_path / "file" / "out", to="torch", num_images=4)


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_the_old_one(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    masktas.export(net, out=out, to="torch", num_images=4)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    tokens = ["export", net, "--out", out, "--to", "timm,torch-export", "--overwrite"]
    with started(*tokens, errors=tmp_path / "said") as job:
        while not (tmp_path / ".out.partial" / "model.safetensors").exists():
            assert job.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.01)
        job.kill()
        job.wait()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    out.rename(tmp_path / ".out.old")  # as if it had been killed a little later
    masktas.export(net, out=out, to="timm", num_images=4)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", "said"}
    assert (out / "config.json").exists()
