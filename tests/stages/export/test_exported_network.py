"""An export is a network folder too: it predicts what the network predicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import masktas
from masktas.cli import main
from masktas.errors import ArtifactError, LabelError
from masktas.nn.timm_weights import from_timm, to_timm
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.networks import load_network
from used import CLASSES, SEEN, SHAPE, save_classifier, save_odd_photos

WIDE = replace(SEEN, image_size=(16, 24), stored_size=(18, 29), white=200.0)
UNEVEN = Architecture(
    embed_dim=20, num_heads=(3, 1), mlp_ratio=(2, 1.77), head_dim=8,
    image_size=(16, 24), patch_size=4, num_classes=3, pool="mean-norm",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    save_classifier(folder / "net", shape=UNEVEN, seen=WIDE)
    masktas.export(folder / "net", out=folder / "out", to="torch", num_images=4)
    save_odd_photos(folder / "photos")
    return folder


def test_an_export_predicts_what_the_network_predicts(place: Path) -> None:
    photos = place / "photos"
    expected = masktas.load(place / "net").predict(photos, top=3)
    exported = masktas.load(place / "out")
    assert exported.classes == CLASSES
    assert exported.predict(photos, top=3) == expected
    assert len({one.top for one in expected}) > 3
    again = exported.embed(photos).values
    np.testing.assert_array_equal(again, masktas.load(place / "net").embed(photos).values)


def test_the_command_line_takes_an_export(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for network in ("net", "out"):
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(place / network), str(place / "photos"), "--json", "--quiet"])
        assert ended.value.code == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    with pytest.raises(SystemExit):
        main(["show", str(place / "out" / "architecture.json"), "--json"])
    assert json.loads(capsys.readouterr().out)["num_heads"] == [3, 1]


@pytest.mark.parametrize("pool", ["cls", "mean", "mean-norm"])
def test_the_weights_come_back_bit_for_bit(pool: str) -> None:
    network = ViT(UNEVEN.replace(pool=pool, in_channels=5))
    own = network.state_dict()
    there = to_timm(network)
    assert there.keys() != own.keys()
    back = from_timm(there, network.architecture, where="here")
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], own[name]) for name in own)


def test_an_export_can_be_exported(place: Path, tmp_path: Path) -> None:
    masktas.export(place / "out", out=tmp_path / "again", to="timm", num_images=4)
    first, second = (
        load_file(one / "model.safetensors") for one in (place / "out", tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_network_without_labels_has_features_only(tmp_path: Path) -> None:
    save_classifier(tmp_path / "net", seen=replace(SEEN, classes=None))
    network = masktas.load(tmp_path / "net")
    masktas.export(tmp_path / "net", out=tmp_path / "out", to="torch", num_images=4)
    exported = masktas.load(tmp_path / "out")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), network.pooled(images))
    with pytest.raises(LabelError, match="trained without labels"):
        exported.predict(np.zeros((20, 20, 3), np.uint8))


def test_weights_of_another_network_are_refused(place: Path, tmp_path: Path) -> None:
    save_classifier(tmp_path / "net", shape=SHAPE, seen=SEEN)
    masktas.export(tmp_path / "net", out=tmp_path / "out", to="torch", num_images=4)
    path = tmp_path / "out" / "model.safetensors"
    right = path.read_bytes()
    path.write_bytes((place / "out" / "model.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match="weights are of another architecture"):
        masktas.load(tmp_path / "out")
    path.write_bytes(right)
    tensors = load_file(path)
    tensors["blocks.0.attn.qkv.weight"] = torch.zeros(7, 16)
    save_file(tensors, path)
    with pytest.raises(ArtifactError, match=r"another architecture: blocks\.0\.attn\.qkv\.weight"):
        load_network(tmp_path / "out")
    path.write_bytes(right[:-5])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        masktas.load(tmp_path / "out")
    (tmp_path / "out" / "architecture.json").unlink()
    with pytest.raises(ArtifactError, match="an export with one of the forms torch, timm and hf"):
        masktas.load(tmp_path / "out")
