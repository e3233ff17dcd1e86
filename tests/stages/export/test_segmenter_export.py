"""A segmenter in forms that open without masktas: the same logits, the same masks of photos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import masktas
from masktas.errors import ConfigError
from masktas.segment_predictor import SegmentPredictor
from masktas.space import Architecture
from masktas.stages.export.forms import all_forms
from masktas.stages.export.held_out import middle_window
from masktas.stages.export.stage import table_of
from masktas.train.segmenters import load_segmenter
from used import save_odd_photos, save_small_segmenter

# pooling to grids of 3 and 6 does not divide these maps evenly
SHAPE = Architecture(
    embed_dim=20, num_heads=(3, 1, 2), mlp_ratio=(2, 1.77, 1), head_dim=8,
    image_size=(16, 24), patch_size=4, num_classes=0, pool="mean-norm",
)  # fmt: skip
FILES = [
    "README.md", "architecture.json", "input.json", "model.py", "model.safetensors",
    "parity.json", "segmenter.json", "segmenter.safetensors",
]  # fmt: skip
FORMS = all_forms(segments=True)


def crops(num: int) -> torch.Tensor:
    return torch.randn(num, 3, *SHAPE.image_size, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmenters")
    save_small_segmenter(folder / "net", "upernet", shape=SHAPE, short_side=20)
    save_odd_photos(folder / "photos")
    masktas.export(folder / "net", out=folder / "out", to="torch", num_images=4)
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "parity.json").read_text())
    return content


def test_model_py_gives_the_logits_of_every_pixel(place: Path) -> None:
    network, _ = load_segmenter(place / "net")
    for batch in (1, 3):
        with torch.no_grad():
            expected = network(crops(batch))[0]
            found = FORMS["torch"].open(place / "out")(crops(batch))
        assert found.shape == (batch, 3, 16, 24)
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_pixels_are_compared(place: Path) -> None:
    record = record_of(place / "out")
    assert record["outputs"] == "logits of pixels"
    header, rows = table_of(record)
    assert header[2] == "same pixels"
    assert [row[2] for row in rows] == ["100.0%"] * 2
    assert set(record["made_from"]) == {
        "architecture.json", "weights.safetensors", "input.json", "segmenter.json",
        "segmenter.safetensors",
    }  # fmt: skip
    assert sorted(one.name for one in (place / "out").iterdir()) == FILES


def test_model_py_makes_the_masks_that_masktas_makes(place: Path, tmp_path: Path) -> None:
    photos = [one for one in sorted((place / "photos").iterdir()) if one.suffix in (".png", ".jpg")]
    photos = [one for one in photos if "deep" not in one.name]  # Pillow cuts 16 bits of colour
    code = (
        "import runpy, sys\n"
        "for name in ('masktas', 'timm', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", code, place / "out/model.py", *photos],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line, one in zip(lines, masktas.load(place / "net").predict(photos), strict=True):
        assert isinstance(one.indices, np.ndarray)
        written = np.asarray(Image.open(tmp_path / f"{Path(one.name).stem}-classes.png"))
        assert written.shape == one.indices.shape
        assert (written == np.array([0, 4, 9])[one.indices]).mean() > 0.99, one.name
        assert line.split("  ")[1].split()[0] == one.top[0][0]
    assert len({line.split("  ", 1)[1] for line in lines}) == len(photos)


def test_an_export_is_a_segmenter_of_masktas(place: Path) -> None:
    exported, photo = masktas.load(place / "out"), place / "photos/a-plain.png"
    assert isinstance(exported, SegmentPredictor)
    [expected], [found] = (one.predict(photo) for one in (masktas.load(place / "net"), exported))
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert len(expected.top) > 1


@pytest.mark.parametrize("form", ["timm", "hf"])
def test_forms_without_a_place_for_a_decoder_are_refused(
    place: Path, tmp_path: Path, form: str
) -> None:
    with pytest.raises(ConfigError, match=f"exported as {form}: it is a segmenter, and"):
        masktas.export(place / "net", out=tmp_path / "out", to=f"torch,{form}")
    assert not (tmp_path / "out").exists()


def test_the_card_and_the_hub_take_a_segmenter(place: Path) -> None:
    card = ModelCard((place / "out/README.md").read_text())
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.library_name == "pytorch"
    assert "Its 3 classes are ground, red, green." in card.text
    assert "A decoder (upernet, " in card.text
    assert "from model import load, segment" in card.text
    sent = masktas.push(place / "out", "org/net", dry_run=True)
    assert [one["name"] for one in sent["files"]] == FILES


@pytest.mark.slow
def test_programs_of_a_segmenter_take_any_number_of_crops(place: Path, tmp_path: Path) -> None:
    record = masktas.export(
        place / "net", out=tmp_path / "out", to="torch-export,onnx,onnx-int8",
        calibrate=place / "photos", num_images=20,
    )  # fmt: skip
    network, _ = load_segmenter(place / "net")
    rooms = {"torch-export": 1e-4, "onnx": 1e-4, "onnx-int8": 0.3, "onnx-int8-static": 0.3}
    for name, room in rooms.items():
        run = FORMS[name].open(tmp_path / "out")
        for batch in (1, 3):
            with torch.no_grad():
                expected, found = network(crops(batch))[0], run(crops(batch))
            torch.testing.assert_close(found, expected, atol=room * float(expected.std()), rtol=0)
        if not name.startswith("onnx"):
            continue
        model = onnx.load(tmp_path / "out" / FORMS[name].files[0])
        said = {one.key: json.loads(one.value) for one in model.metadata_props}
        assert said["outputs"] == "logits of pixels"
        assert (said["values"], said["short_side"]) == ([0, 4, 9], 20)
        assert "stored_size" not in said
        assert any("windows of image_size" in step for step in said["steps"])
    agreed = {one["form"]: one["agreement"] for one in record["forms"]}
    assert agreed["onnx"] > 0.999
    assert min(agreed.values()) > 0.9


@pytest.mark.slow
def test_baked_files_of_a_segmenter_take_bytes(tmp_path: Path) -> None:
    network = save_small_segmenter(tmp_path / "net", shape=SHAPE)
    masktas.export(
        tmp_path / "net", out=tmp_path / "out", to="onnx", bake_preprocess=True, num_images=2
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    seen = masktas.load(tmp_path / "net").seen
    with torch.no_grad():
        expected = network(seen.prepare(pixels, torch.device("cpu")))[0]
    found = all_forms(segments=True)["onnx"].open(tmp_path / "out")(torch.from_numpy(pixels))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("short_side", [None, 20])
def test_a_window_is_the_middle_of_an_image(short_side: int | None) -> None:
    image = np.random.default_rng(0).integers(1, 256, (40, 60, 3), np.uint8)
    window = middle_window(image, short_side, (16, 24))
    if short_side is None:
        np.testing.assert_array_equal(window, image[12:28, 18:42])
    else:
        small = Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR)
        there = np.asarray(small)[2:18, 3:27].astype(int)
        assert np.abs(window - there).max() <= 1
    padded = middle_window(image[:10, :20], None, (16, 24))
    np.testing.assert_array_equal(padded[:10, :20], image[:10, :20])
    assert not padded[10:].any()
    assert not padded[:, 20:].any()
