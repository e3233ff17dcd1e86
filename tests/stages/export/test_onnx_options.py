"""ONNX files with fixed ranges (`--calibrate`), and files that prepare images themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import masktas
from masktas.console import Console
from masktas.data.sources import Item
from masktas.errors import ArtifactError, ConfigError, DataError
from masktas.stages.export import calibration
from masktas.stages.export.calibration import CalibrationImages
from masktas.stages.export.forms import all_forms
from masktas.stages.export.held_out import random_images
from masktas.stages.export.onnx_form import FromPixels
from used import SEEN, SHAPE, save_classifier

Q, DQ = "QuantizeLinear", "DequantizeLinear"


def save_pixels(folder: Path, num: int) -> None:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(random_images(SEEN, num)):
        np.save(folder / f"{number:03d}.npy", pixels)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    save_classifier(folder / "net")
    save_pixels(folder / "photos", 30)
    (folder / "photos" / "torn.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def record(place: Path) -> dict[str, Any]:
    """What an export has measured whose ONNX files prepare images themselves."""
    return masktas.export(
        place / "net", out=place / "out", to="torch,onnx,onnx-int8",
        calibrate=place / "photos", bake_preprocess=True, num_images=40,
    )  # fmt: skip


@pytest.mark.slow
def test_fixed_ranges_are_near_the_network(record: dict[str, Any]) -> None:
    found = {one["form"]: one for one in record["forms"]}
    static, exact = found["onnx-int8-static"], found["onnx"]
    assert static["written"]
    assert exact["max_difference"] < 1e-4 < static["max_difference"] < 0.5
    assert static["agreement"] >= 0.97
    assert record["calibrated_on"]["images"] == "photos"


@pytest.mark.slow
def test_only_linear_layers_are_quantised_signed_and_symmetric(
    place: Path, record: dict[str, Any]
) -> None:
    graph = onnx.load(place / "out" / "onnx" / "model_int8_static.onnx").graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    linear = 0
    for node in graph.node:
        if node.op_type in (Q, DQ):
            points = constants[node.input[2]]
            assert points.dtype == np.int8
            assert not points.any()
        sources = [made_by[name].op_type for name in node.input if name in made_by]
        if DQ in sources and node.op_type != Q:
            assert node.op_type in ("MatMul", "Gemm")
            weights = constants[made_by[node.input[1]].input[0]]
            assert np.abs(weights).max() in (63, 64)  # of 7 bits
            linear += 1
    assert linear == 4 * SHAPE.depth + 2  # patches, qkv, proj, fc1, fc2, head


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "onnx-int8", "onnx-int8-static"])
def test_baked_files_take_decoded_images(place: Path, record: dict[str, Any], name: str) -> None:
    form = all_forms(bake_preprocess=True)[name]
    pixels = random_images(SEEN, 3)
    network = masktas.load(place / "net")
    with torch.no_grad():
        expected = network.logits(pixels)
    found = form.open(place / "out")(torch.from_numpy(pixels))
    room = 1e-4 if form.is_exact else 0.2 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=room, rtol=0)
    model = onnx.load(place / "out" / form.files[0])
    kind = model.graph.input[0].type.tensor_type
    assert kind.elem_type == onnx.TensorProto.UINT8
    sizes = [one.dim_value for one in kind.shape.dim]
    assert sizes == [0, *SEEN.stored_size, 3]
    said = {one.key: json.loads(one.value) for one in model.metadata_props}
    assert said["input"] == {"dtype": "uint8", "layout": "BHWC", "size": list(SEEN.stored_size)}
    assert "mean" not in said
    assert not any("mean" in step or "image_size" in step for step in said["steps"])


def test_the_graph_prepares_images_as_masktas_does() -> None:
    network = torch.nn.Flatten()
    pixels = random_images(SEEN, 3)
    found = FromPixels(network, SEEN)(torch.from_numpy(pixels))
    expected = network(SEEN.prepare(pixels, torch.device("cpu")))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_card_says_that_bytes_go_in(place: Path, record: dict[str, Any]) -> None:
    text = (place / "out" / "README.md").read_text()
    assert "take decoded images, bytes `[B, H, W, C]`" in text
    assert "`onnx/model_int8_static.onnx`" in text


@pytest.mark.slow
def test_other_images_make_another_export(
    place: Path, record: dict[str, Any], tmp_path: Path
) -> None:
    asked = {"to": "torch,onnx,onnx-int8", "num_images": 40, "bake_preprocess": True}
    again = masktas.export(place / "net", out=place / "out", calibrate=place / "photos", **asked)
    assert again == record
    save_pixels(tmp_path / "photos", 4)
    for changed in ({"calibrate": tmp_path / "photos"}, {"calibrate": None}):
        with pytest.raises(ArtifactError, match="--overwrite"):
            masktas.export(place / "net", out=place / "out", **asked, **changed)


def test_what_cannot_be_done_is_refused(place: Path, tmp_path: Path) -> None:
    out, net = tmp_path / "out", place / "net"
    with pytest.raises(ConfigError, match=r"onnx-int8-static needs images.*--calibrate IMAGES"):
        masktas.export(net, out=out, to="onnx-int8-static")
    with pytest.raises(ConfigError, match="--bake-preprocess is for ONNX files"):
        masktas.export(net, out=out, to="torch", bake_preprocess=True)
    with pytest.raises(DataError, match="nowhere"):
        masktas.export(net, out=out, to="onnx", calibrate=tmp_path / "nowhere")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 1 images could be read"):
        masktas.export(net, out=out, to="torch", calibrate=tmp_path / "torn")
    assert [path.name for path in tmp_path.iterdir()] == ["torn"]


@dataclass
class Stream:
    """Images that can only be read in order."""

    images: list[np.ndarray]
    location: str = "far/away.tar"
    num_shards: int = 1
    read_so_far: list[int] = field(default_factory=list)

    def sizes(self) -> None:
        return None

    def stream(self, shard: int) -> Iterator[Item]:
        for number, image in enumerate(self.images):
            self.read_so_far.append(number)
            yield Item(str(number), image)

    def fingerprint(self) -> list[str]:
        return ["one"]


def test_a_random_selection_is_read_or_the_first_of_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MOST", 5)
    save_pixels(tmp_path / "photos", 30)
    everything = random_images(SEEN, 30)
    found = CalibrationImages.of(tmp_path / "photos", Console(quiet=True)).read(SEEN)
    places = [int(np.flatnonzero((everything == one).all((1, 2, 3)))[0]) for one in found]
    assert len(found) == 5
    assert places == sorted(places) != list(range(5))
    stream = Stream(list(everything))
    of_stream = CalibrationImages.of(stream, Console(quiet=True))
    np.testing.assert_array_equal(of_stream.read(SEEN), everything[:5])
    assert stream.read_so_far == list(range(5))
    assert of_stream.name == "away.tar"
