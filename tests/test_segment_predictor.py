"""Segmenters that take images as people have them; the masks that `masktas predict` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import masktas
from masktas.cli import main
from masktas.data.class_maps import (
    FileNames,
    class_colors,
    colored,
    mask_picture,
    overlay,
)
from masktas.data.decode.image import decode
from masktas.data.decode.mask import decode_mask
from masktas.data.masks import IGNORED
from masktas.errors import ArtifactError, DataError, UndecodableImage
from masktas.predictor import Predictor, load_backbone
from masktas.segment_predictor import SegmentPredictor
from masktas.train.runtime import Runtime
from masktas.train.windows import SlidingRows
from pairs import encoded, write_pairs
from used import SHAPE, save_odd_photos, save_small_segmenter

NAMES, VALUES = ("ground", "red", "green"), (0, 4, 9)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("segmenter")
    save_small_segmenter(made / "net")
    save_odd_photos(made / "photos")
    (made / "photos/below").mkdir()
    Image.fromarray(np.zeros((9, 40, 3), np.uint8)).save(made / "photos/below/flat.png")
    return made


@pytest.fixture(scope="module")
def network(folder: Path) -> SegmentPredictor:
    found = masktas.load(folder / "net")
    assert isinstance(found, SegmentPredictor)
    return found


def call(capsys: pytest.CaptureFixture[str], *tokens: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(token) for token in tokens])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def expected(network: SegmentPredictor, content: Any, size: tuple[int, int]) -> np.ndarray:
    """Compute a class map step by step."""
    pixels = decode(content, size=size, in_channels=3)
    x = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    image = torch.from_numpy(x.transpose(2, 0, 1)[None]).float()
    rows = SlidingRows(network, image, Runtime.choose("cpu", "fp32"))
    return rows.rows(0, size[0]).argmax(dim=0).numpy()


def test_every_image_at_its_own_size(folder: Path, network: SegmentPredictor) -> None:
    found = network.predict(folder / "photos")
    assert [one.name for one in found if "flat" in one.name] == ["below/flat.png"]
    for one in found:
        turned = one.name == "e-turned.jpg"
        size = {"below/flat.png": (9, 40)}.get(one.name, (40, 30) if turned else (30, 40))
        assert one.indices is not None
        assert one.indices.shape == size
        wanted = expected(network, (folder / "photos" / one.name).read_bytes(), size)
        assert (one.indices == wanted).mean() > 0.999, one.name  # rounding of equal logits
        counts = np.bincount(one.indices.ravel(), minlength=3) / one.indices.size
        assert dict(one.top) == {NAMES[n]: counts[n] for n in range(3) if counts[n]}
        assert [share for _, share in one.top] == sorted(counts[counts > 0], reverse=True)
    assert len({len(one.top) for one in found}) > 1, "some images have fewer classes"


def test_forms_of_an_image_and_what_cannot_be_read(folder: Path, network: SegmentPredictor) -> None:
    path = folder / "photos" / "a-plain.png"
    pixels = np.asarray(Image.open(path))
    first = network.predict(path)[0].indices
    for one in network.predict([path, pixels, Image.open(path), b"nothing"])[:3]:
        assert np.array_equal(one.indices, first)
    assert [bool(one.problem) for one in network.predict([path, b"nothing"])] == [False, True]
    with pytest.raises(UndecodableImage, match="image 1"):
        network.predict([path, b"nothing"], strict=True)
    with pytest.raises(DataError, match="none of 1 images could be read"):
        network.predict([b"nothing"])
    mirrored = network.predict(pixels, scales=(1.0, 1.5), flip=True)[0].indices
    assert mirrored is not None
    assert mirrored.shape == (30, 40)
    assert not np.array_equal(mirrored, first)


def test_its_backbone_is_a_network_of_its_own(folder: Path, network: SegmentPredictor) -> None:
    backbone = load_backbone(folder / "net")
    assert isinstance(backbone, Predictor)
    assert not backbone.knows_classes
    assert backbone.embed(folder / "photos/a-plain.png").values.shape == (1, SHAPE.embed_dim)
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, network.backbone.state_dict()[name])


def test_a_folder_without_its_input_is_refused(tmp_path: Path) -> None:
    save_small_segmenter(tmp_path / "net")
    (tmp_path / "net/input.json").unlink()
    with pytest.raises(ArtifactError, match=r"no input\.json there"):
        masktas.load(tmp_path / "net")
    save_small_segmenter(tmp_path / "net")
    (tmp_path / "net/segmenter.json").write_text('{"decoder": "linear"}')
    with pytest.raises(ArtifactError, match=r"segmenter\.json: damaged"):
        masktas.load(tmp_path / "net")


def test_predict_writes_masks_and_overlays(
    folder: Path, network: SegmentPredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("predict", folder / "net", folder / "photos", "--device", "cpu", "--out")
    code, said, error = call(capsys, *command, tmp_path / "out", "--json", "--top", 2)
    assert code == 0, error
    colors = class_colors(3)
    by_name = {one["name"]: one for one in json.loads(said)}
    for one in network.predict(folder / "photos"):
        told = by_name[one.name]
        assert [(top["class"], top["share"]) for top in told["top"]] == list(one.top[:2])
        content = (tmp_path / "out" / told["mask"]).read_bytes()
        assert np.array_equal(decode_mask(content), np.array(VALUES)[one.indices])
        with Image.open(tmp_path / "out" / told["mask"]) as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.asarray(mask.convert("RGB")), colored(one.indices, colors))
        with Image.open(tmp_path / "out" / told["overlay"]) as picture:
            assert picture.size == (one.indices.shape[1], one.indices.shape[0])
    assert (tmp_path / "out/masks/below/flat.png").exists()
    code, said, _ = call(capsys, *command, tmp_path / "out", "--csv", tmp_path / "shares.csv")
    assert code == 0
    header, first = (tmp_path / "shares.csv").read_text().splitlines()[:2]
    assert header.startswith("name,class_1,share_1,class_2")
    assert first.count(",") == header.count(",")


def test_predict_refuses_what_does_not_go_together(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = folder / "photos/a-plain.png"
    code, _, said = call(capsys, "predict", folder / "net", photo)
    assert code == 2
    assert "This network is a segmenter: give --out" in said
    code, _, said = call(capsys, "predict", folder / "net", photo, "--out", photo)
    assert code == 2
    assert "a file is there" in said
    save_small_segmenter(tmp_path / "large", values=(0, 1, 70_000))
    code, _, said = call(capsys, "predict", tmp_path / "large", photo, "--out", tmp_path / "out")
    assert code == 2
    assert "number 70000, which a PNG mask cannot hold" in said
    assert not (tmp_path / "out").exists()


def test_evaluate_on_masks_that_the_network_has_made(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All right where the masks are its own answers; classes are matched by name."""
    data = write_pairs(tmp_path / "data", 4)
    (data / "masks").rename(data / "true")
    code, _, error = call(
        capsys, "predict", folder / "net", data / "images", "--device", "cpu", "--out", data
    )
    assert code == 0, error
    evaluate = ("evaluate", folder / "net", data, "--device", "cpu", "--out")
    code, said, error = call(capsys, *evaluate, tmp_path / "own")
    assert code == 0, error
    assert "mIoU 100.00%, pixel accuracy 100.00%" in said
    renumbered = {0: 2, 4: 7, 9: 3}
    for path in (data / "masks").iterdir():
        mask = decode_mask(path.read_bytes())
        for before, after in renumbered.items():
            mask[mask == before] = after + 100
        mask[0, 0] = 177
        path.write_bytes(encoded((mask - 100).astype(np.uint8)))
    names = {"2": "ground", "7": "blue", "3": "green", "5": "red"}
    (data / "classes.json").write_text(json.dumps(names))
    code, said, error = call(capsys, *evaluate, tmp_path / "other", "--json")
    assert code == 0, error
    outcome = json.loads(said)["outcome"]
    assert outcome["pixel_accuracy"] == 1
    assert outcome["absent"] == ["red"]
    assert "do not occur in the masks and are left out of the means: red" in error
    assert "the network does not know their classes (numbers 7, 77)" in error
    assert 0 < outcome["unknown_share"] < 1
    table = (tmp_path / "other/per_class.csv").read_text().splitlines()
    assert table[0] == "class,share,iou,accuracy"
    assert table[2] == "red,,,"
    (data / "classes.json").write_text(json.dumps(["a", "b"]))
    code, _, error = call(capsys, *evaluate, tmp_path / "unknown")
    assert code == 2
    assert "the network knows none of its classes (a, b)" in error
    code, _, error = call(capsys, *evaluate, tmp_path / "split", "--split", "test")
    assert code == 2


def test_masks_hold_numbers_up_to_16_bits() -> None:
    indices = np.array([[0, 1], [2, 0]], np.int16)
    picture = mask_picture(indices, (0, 300, 65_535), class_colors(3))
    assert np.array_equal(decode_mask(encoded(np.asarray(picture))), [[0, 300], [65_535, 0]])
    with pytest.raises(DataError, match="-1, which a PNG mask cannot hold"):
        mask_picture(indices, (0, -1, 2), class_colors(3))


def test_colours_are_those_of_pascal_voc_without_black() -> None:
    found = class_colors(150)
    voc = [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(one) for one in found[:6].tolist()] == voc
    assert tuple(found[19]) == (0, 64, 128)  # tvmonitor, number 20
    assert len({tuple(one) for one in found.tolist()}) == 150
    indices = np.array([[0, IGNORED]], np.int16)
    assert colored(indices, found).tolist() == [[[128, 0, 0], [0, 0, 0]]]
    grey = np.full((1, 2, 1), 100, np.uint8)
    assert overlay(grey, indices, found).tolist() == [[[114, 50, 50], [100, 100, 100]]]


def test_names_of_files_stay_below_their_folder_and_apart() -> None:
    names = FileNames()
    assert names.of("train/a.jpg") == "train/a.png"
    assert names.of("train/a.png") == "train/a-2.png"
    assert names.of("../../etc/passwd") == "etc/passwd.png"
    assert names.of("/b.tar: c\x00/d.png") == "b.tar_ c_/d.png"
    assert names.of("..") == "image.png"
