"""Every form of an export computes what the network computes, and none is half-written."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

import masktas
import masktas.timm  # registers the architecture
from masktas.cli import main
from masktas.errors import ArtifactError, ConfigError
from masktas.nn.vit import ViT
from masktas.predictor import load
from masktas.space import Architecture
from masktas.stages.export import onnx_form, torch_form
from masktas.stages.export.card import plain
from masktas.stages.export.form import Subject
from masktas.stages.export.forms import all_forms
from masktas.stages.export.parity import Comparison
from masktas.stages.export.stage import table_of
from masktas.stages.export.timm_form import crop_share
from masktas.train.networks import load_network, save_network
from used import CLASSES, SEEN, save_classifier

# 3 heads of 8 channels are wider than the network, and 20 * 1.77 is no whole number
SHAPE = Architecture(
    embed_dim=20, num_heads=(3, 1), mlp_ratio=(2, 1.77), head_dim=8,
    image_size=(16, 24), patch_size=4, num_classes=3, pool="mean-norm",
)  # fmt: skip
WIDE = replace(SEEN, image_size=(16, 24), stored_size=(18, 28))
ALL_FORMS = all_forms()
NOT_EXACT = ("hf", "onnx-int8", "onnx-int8-static")  # or not for images that are not square
GREY = {"in_channels": 1, "mean": (0.4,), "std": (0.3,)}


def draw_network(folder: Path, shape: Architecture, seen: Any) -> ViT:
    network = save_classifier(folder, shape=shape, seen=seen)
    for position in (network.pos_embed, network.cls_token):
        torch.nn.init.normal_(position, generator=torch.Generator().manual_seed(2))
    for norm in (one for one in network.modules() if isinstance(one, torch.nn.LayerNorm)):
        torch.nn.init.normal_(norm.weight, 1, 0.3, generator=torch.Generator().manual_seed(3))
        torch.nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(4))
    save_network(folder, network, seen=seen)
    return network


def images_of(shape: Architecture, num: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(num, shape.in_channels, *shape.image_size, generator=generator)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of images that are not square, with blocks that differ."""
    folder = tmp_path_factory.mktemp("exported") / "net"
    draw_network(folder, SHAPE, WIDE)
    return folder


@pytest.fixture(scope="module")
def record(net: Path) -> dict[str, Any]:
    """What the export of all forms but hf has measured."""
    return masktas.export(net, out=net.parent / "out", num_images=40)


@pytest.fixture(scope="module")
def out(net: Path, record: dict[str, Any]) -> Path:
    return net.parent / "out"


@pytest.mark.parametrize("form", [name for name in ALL_FORMS if name not in NOT_EXACT])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_form_gives_the_logits_of_the_network(
    net: Path, out: Path, form: str, batch: int
) -> None:
    images = images_of(SHAPE, batch)
    with torch.no_grad():
        expected, found = load_network(net)(images), ALL_FORMS[form].open(out)(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_8_bits_are_near_and_smaller(net: Path, out: Path, record: dict[str, Any]) -> None:
    images = images_of(SHAPE, 3)
    with torch.no_grad():
        expected, found = load_network(net)(images), ALL_FORMS["onnx-int8"].open(out)(images)
    assert 1e-4 < (found - expected).abs().max() < 0.2 * expected.abs().max()
    kinds = {one.data_type for one in onnx.load(out / "onnx" / "model_int8.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    by_name = {one["form"]: one for one in record["forms"]}
    assert by_name["onnx-int8"]["max_difference"] > by_name["onnx"]["max_difference"]


def test_what_was_measured_is_recorded(out: Path, record: dict[str, Any]) -> None:
    assert record_of(out) == record
    names = [one["form"] for one in record["forms"]]
    assert names == ["original", "torch", "timm", "torch-export", "onnx", "onnx-int8"]
    assert all(one["written"] and one["ms"] > 0 for one in record["forms"])
    assert all(one["max_difference"] < 1e-4 for one in record["forms"][:-1])
    size = (out / "model.pt2").stat().st_size
    assert {one["bytes"] for one in record["forms"] if one["form"] == "torch-export"} == {size}
    assert not record["is_held_out"]
    assert "random images" in record["images"]
    _, rows = table_of(record)
    assert [row[0] for row in rows] == names
    assert sorted(path.name for path in out.parent.iterdir()) == ["net", "out"]


def test_the_card_says_what_it_is(out: Path) -> None:
    text = (out / "README.md").read_text()
    front = text.split("---")[1]
    assert "pipeline_tag: image-classification" in front
    assert "license" not in front  # nobody has said which
    assert f"| MLP width | {SHAPE.mlp_dim[0]} | {SHAPE.mlp_dim[1]} |" in text
    assert "Its 3 classes are circle, cross, square." in text
    assert "| onnx-int8 |" in text
    assert "hf:" not in text
    assert str(out.parent) not in text


def test_names_are_shown_as_they_are() -> None:
    assert plain("a|b <i>\n[x](y)") == r"a\|b \<i\>\\n\[x\](y)"


def test_onnx_says_what_goes_in_and_comes_out(out: Path) -> None:
    for name in ("model.onnx", "model_int8.onnx"):
        model = onnx.load(out / "onnx" / name)
        said = {one.key: json.loads(one.value) for one in model.metadata_props}
        assert said["classes"] == list(CLASSES)
        assert (said["mean"], said["std"]) == (list(WIDE.mean), list(WIDE.std))
        assert (said["image_size"], said["stored_size"]) == ([16, 24], [18, 28])
        assert said["outputs"] == "logits"
        assert said["white"] is None
        assert {one.domain: one.version for one in model.opset_import}[""] == 20


@pytest.mark.parametrize("pool", ["cls", "mean", "mean-norm"])
@pytest.mark.parametrize("classes", [CLASSES, None])
def test_every_pooling_and_grey_images(
    tmp_path: Path, pool: str, classes: tuple[str, ...] | None
) -> None:
    shape = SHAPE.replace(pool=pool, in_channels=1)
    draw_network(tmp_path / "net", shape, replace(WIDE, classes=classes, **GREY))
    network = load(tmp_path / "net")
    record = masktas.export(tmp_path / "net", out=tmp_path / "out", to="timm, torch", num_images=4)
    assert record["outputs"] == ("features" if classes is None else "logits")
    images = images_of(shape, 2)
    with torch.no_grad():
        expected = network.pooled(images) if classes is None else network(images)
        for form in ("torch", "timm"):
            found = ALL_FORMS[form].open(tmp_path / "out")(images)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_timm_opens_it_by_its_layout(net: Path, out: Path) -> None:
    config = json.loads((out / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("masktas_vit", 3)
    assert config["label_names"] == list(CLASSES)
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    heads = [block.attn.num_heads for block in model.blocks]
    widths = tuple(block.mlp.fc1.out_features for block in model.blocks)
    assert (heads, widths) == ([3, 1], SHAPE.mlp_dim)
    other = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    images = images_of(SHAPE, 2)
    with torch.no_grad():
        features = load_network(net).pooled(images)
        torch.testing.assert_close(other(images), features, atol=1e-5, rtol=1e-5)
    maps = timm.create_model(
        f"local-dir:{out}", pretrained=True, features_only=True, out_indices=(0, 1)
    )
    assert [tuple(one.shape) for one in maps(images)] == [(2, 20, 4, 6)] * 2
    last = timm.create_model(f"local-dir:{out}", pretrained=True, features_only=True)
    assert len(last(images)) == len(SHAPE.num_heads), "at most three: there are no more blocks"


@pytest.mark.slow
def test_timm_and_model_py_prepare_photos_alike(tmp_path: Path) -> None:
    seen = replace(SEEN, stored_size=(18, 18))
    save_classifier(tmp_path / "net", seen=seen)
    masktas.export(tmp_path / "net", out=tmp_path / "out", to="timm,torch", num_images=4)
    rows, columns = np.mgrid[:40, :40] / 40
    pixels = np.stack([rows, columns, rows * columns], axis=2)
    image = Image.fromarray((pixels * 255).astype(np.uint8))
    image.save(tmp_path / "photo.png")
    model = ALL_FORMS["timm"].open(tmp_path / "out")
    found = create_transform(**resolve_model_data_config(model), is_training=False)(image)
    stored = np.array(image.resize((18, 18), Image.Resampling.BICUBIC))[None]
    whole = seen.prepare(stored, torch.device("cpu"))
    torch.testing.assert_close(found, whole[0], atol=1e-5, rtol=1e-5)
    said = run_model_py(tmp_path / "out", tmp_path / "photo.png")
    [prediction] = masktas.load(tmp_path / "net").predict(tmp_path / "photo.png", top=3)
    for name, share in prediction.top:
        assert f"{name} {share:.1%}" in said


@pytest.mark.slow
def test_model_py_reads_16_bits_as_masktas_does(tmp_path: Path) -> None:
    shape = SHAPE.replace(in_channels=1, image_size=(16, 16))
    values = np.random.default_rng(0).integers(0, 4096, (16, 16)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.png")
    for white in (4095.0, None):
        seen = replace(SEEN, white=white, **GREY)
        place = tmp_path / str(white)
        draw_network(place / "net", shape, seen)
        masktas.export(place / "net", out=place / "out", to="torch", num_images=4)
        said = run_model_py(place / "out", tmp_path / "scan.png")
        [prediction] = masktas.load(place / "net").predict(tmp_path / "scan.png", top=3)
        for name, share in prediction.top:
            assert f"{name} {share:.1%}" in said


def run_model_py(folder: Path, photo: Path) -> str:
    """Run model.py where neither masktas nor timm nor safetensors can be imported."""
    code = (
        "import runpy, sys\n"
        "for name in ('masktas', 'timm', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = f"import sys; sys.argv = sys.argv[1:]\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", command, folder / "model.py", photo],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transformers_opens_it(tmp_path: Path) -> None:
    network = save_classifier(tmp_path / "net", seen=replace(SEEN, stored_size=(18, 18)))
    masktas.export(tmp_path / "net", out=tmp_path / "out", to="hf", num_images=4)
    import transformers

    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert [model.config.id2label[number] for number in range(3)] == list(CLASSES)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    image = Image.new("RGB", (36, 36), (200, 90, 30))
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    expected = (np.array([200, 90, 30]) / 255 - SEEN.mean) / SEEN.std
    assert pixels.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(pixels[0, :, 8, 8], expected, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(pixel_values=pixels).logits, network(pixels), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("shape", "change", "words"),
    [
        (SHAPE, {}, "its images are not square"),
        (SHAPE, {"classes": None}, "it has no classes"),
        (SHAPE.replace(in_channels=1), GREY, "have 1 channels"),
    ],
)
def test_what_transformers_cannot_prepare_is_refused(
    tmp_path: Path, shape: Architecture, change: dict[str, Any], words: str
) -> None:
    save_classifier(tmp_path / "net", shape=shape, seen=replace(WIDE, **change))
    with pytest.raises(ConfigError, match=words):
        masktas.export(tmp_path / "net", out=tmp_path / "out", to="torch,hf")
    assert not (tmp_path / "out").exists()


def test_a_form_that_is_off_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_network(tmp_path / "net", SHAPE.replace(pool="mean"), WIDE)
    right = torch_form.shape_of
    monkeypatch.setattr(torch_form, "shape_of", lambda one: right(one) | {"pool": "cls"})
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "net"), "--out", str(out), "--to", "torch,timm"])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "not written: too far from the original" in printed
    assert "200 random images" in printed
    names = [
        "README.md", "architecture.json", "config.json", "input.json", "model.safetensors",
        "parity.json",
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == names
    off = {one["form"]: one["max_difference"] for one in record_of(out)["forms"]}
    assert off["torch"] > 1e-3 > off["timm"]


@pytest.mark.slow
def test_8_bits_of_a_file_that_is_off_are_not_written(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx_form.export_onnx

    def wrong(network: ViT, *given: Any, **more: Any) -> None:
        assert network.head is not None
        network.head.bias.add_(0.1)  # of all classes alike: the best one stays
        right(network, *given, **more)
        network.head.bias.sub_(0.1)

    monkeypatch.setattr(onnx_form, "export_onnx", wrong)
    for to in ("onnx-int8", "onnx,onnx-int8"):
        found = masktas.export(net, out=tmp_path / to, to=to, num_images=8)
        [*_, int8] = found["forms"]
        assert not int8["written"]
        assert "not written: onnx, which it is made from" in int8["warning"]
        assert not (tmp_path / to / "onnx").exists() or not any((tmp_path / to / "onnx").iterdir())


def test_a_form_that_computes_no_number_for_one_image_is_off(net: Path, tmp_path: Path) -> None:
    comparison = Comparison(Subject.of(load(net)), np.zeros((3, *WIDE.stored_size, 3), np.uint8))
    network = load_network(net)

    def run(images: Tensor) -> Tensor:
        return network(images) * (math.nan if len(images) == 1 else 1)

    form = replace(ALL_FORMS["torch"], files=(), open=lambda _: run)
    assert not comparison.of(form, tmp_path).written


def record_of(folder: Path) -> dict[str, Any]:
    """Read what an export has measured."""
    content: dict[str, Any] = json.loads((folder / "parity.json").read_text())
    return content


def test_what_cannot_be_exported_is_refused(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--out"):
        masktas.export(net, to="torch")
    with pytest.raises(
        ConfigError, match=r"--to 'tflite': not a form of export: choose some of tor"
    ):
        masktas.export(net, out=tmp_path / "out", to="torch,tflite")
    save_classifier(tmp_path / "old", seen=None)
    with pytest.raises(ArtifactError, match=r"no input\.json there"):
        masktas.export(tmp_path / "old", out=tmp_path / "out")
    save_classifier(tmp_path / "damaged")
    (tmp_path / "damaged" / "input.json").write_text('{"mean": [0.5]}')
    with pytest.raises(ArtifactError, match=r"input\.json: damaged"):
        masktas.export(tmp_path / "damaged", out=tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs the package onnxscript.*masktas\[onnx\]"):
        masktas.export(net, out=tmp_path / "out", to="onnx-int8")
    assert not (tmp_path / "out").exists()


def test_without_an_extra_its_forms_are_left_out(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    record = masktas.export(net, out=tmp_path / "out", num_images=4)
    assert record["asked"] == ["torch", "timm", "torch-export"]
    said = capsys.readouterr().err
    assert 'pip install "masktas[onnx]"' in said.partition("Left out")[2]


@pytest.mark.parametrize("stored", range(17, 64, 3))
def test_timm_scales_to_the_stored_size(stored: int) -> None:
    assert math.floor(16 / crop_share(16, stored)) == stored


def test_the_onnx_form_needs_no_file_of_another(net: Path, out: Path) -> None:
    assert onnx_form.form().files == ("onnx/model.onnx",)
    assert {path.name for path in (out / "onnx").iterdir()} == {"model.onnx", "model_int8.onnx"}
