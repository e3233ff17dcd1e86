"""Networks that take images as people have them."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import masktas
from masktas.data.decode.image import decode
from masktas.errors import ArtifactError, ConfigError, DataError, LabelError, UndecodableImage
from masktas.nn.patches import patchify
from masktas.nn.vit import ViT
from masktas.predictor import Predictor
from masktas.train.networks import load_network
from used import CLASSES, SEEN, SHAPE, save_classifier, save_odd_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("network")
    save_classifier(made / "net")
    save_odd_photos(made / "photos")
    return made


@pytest.fixture(scope="module")
def network(folder: Path) -> Predictor:
    return masktas.load(folder / "net")


def expected(network: ViT, content: bytes | np.ndarray) -> torch.Tensor:
    """Compute probabilities step by step, as `input.json` describes them."""
    pixels = decode(content, size=SEEN.stored_size, in_channels=3)[1:17, 2:18]
    x = (pixels / 255 - np.array(SEEN.mean)) / np.array(SEEN.std)
    with torch.no_grad():
        logits = network(torch.from_numpy(x.transpose(2, 0, 1)[None]).float())
    return logits.softmax(dim=1)[0]


def test_a_loaded_network_is_a_plain_vit(folder: Path, network: Predictor) -> None:
    images = torch.randn(2, 3, 16, 16)
    plain = save_classifier(folder / "again")
    assert isinstance(network, ViT)
    assert torch.equal(network(images), plain(images))
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(copy.deepcopy(network)(images), network(images))


def test_odd_photos_are_read_as_for_training(folder: Path, network: Predictor) -> None:
    found = network.predict(folder / "photos", top=3)
    names = sorted(path.name for path in (folder / "photos").iterdir())
    assert [one.name for one in found] == names
    answers = set()
    for one in found:
        wanted = expected(network, (folder / "photos" / one.name).read_bytes())
        assert dict(one.top) == pytest.approx(
            dict(zip(CLASSES, wanted.tolist(), strict=True)), rel=1e-4
        )
        assert [p for _, p in one.top] == sorted((p for _, p in one.top), reverse=True)
        assert sum(p for _, p in one.top) == pytest.approx(1)
        answers.add(one.top)
    assert found[0].top == found[-1].top  # the array holds the pixels of the plain photo
    assert len(answers) == len(found) - 1


def test_every_form_of_an_image_gives_the_same_answer(folder: Path, network: Predictor) -> None:
    path = folder / "photos" / "a-plain.png"
    image = Image.open(path)
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    first = network.predict(path)[0].top
    for form in (image, pixels):
        assert [one.top for one in network.predict(form)] == [first]
    (there,) = network.predict(f"file://{path}")
    assert (there.top, there.name) == (first, path.name)
    with pytest.raises(DataError, match=r"gone\.png"):
        network.predict(f"file://{path.with_name('gone.png')}")
    listed = network.predict([path, image, pixels, tensor, path.read_bytes()], batch_size=2)
    assert [one.name for one in listed[:3]] == [str(path), "image 1", "image 2"]
    for one in (*listed, *network.predict(np.stack([pixels, pixels]))):
        assert [name for name, _ in one.top] == [name for name, _ in first]
        assert [p for _, p in one.top] == pytest.approx([p for _, p in first], rel=1e-5)


def test_no_class_at_all_is_refused(folder: Path, network: Predictor) -> None:
    with pytest.raises(ConfigError, match="top is 0"):
        network.predict(folder / "photos", top=0)


def test_features_are_what_the_head_takes(folder: Path, network: Predictor) -> None:
    found = network.embed(folder / "photos", batch_size=4)
    assert found.values.shape == (6, SHAPE.embed_dim)
    assert found.values.dtype == np.float32
    assert network.head is not None
    logits = network.head(torch.from_numpy(found.values)).softmax(dim=1).detach().numpy()
    for one, row in zip(network.predict(folder / "photos", top=3), logits, strict=True):
        assert dict(one.top) == pytest.approx(dict(zip(CLASSES, row, strict=True)), rel=1e-4)


def test_unreadable_images_are_named_and_the_others_go_through(
    folder: Path, network: Predictor, tmp_path: Path
) -> None:
    shutil.copytree(folder / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "bad.png").write_bytes(b"\x89PNG nothing")
    found = network.predict(tmp_path / "photos", batch_size=2)
    assert [one.name for one in found if one.problem] == ["bad.png"]
    assert all(len(one.top) == 3 for one in found if not one.problem)
    features = network.embed(tmp_path / "photos")
    assert [name for name, _ in features.problems] == ["bad.png"]
    assert len(features.values) == len(features.names) == 6
    with pytest.raises(UndecodableImage, match=r"bad\.png"):
        network.predict(tmp_path / "photos", strict=True)
    with pytest.raises(DataError, match=r"none of 1 images could be read; the first, bad\.png"):
        network.predict(tmp_path / "photos" / "bad.png")
    missing = network.predict([tmp_path / "nowhere.png", folder / "photos" / "a-plain.png"])
    assert [bool(one.problem) for one in missing] == [True, False]


def test_a_folder_works_wherever_it_is_copied(folder: Path, tmp_path: Path) -> None:
    before = masktas.load(folder / "net").predict(folder / "photos")
    shutil.copytree(folder / "net", tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere", tmp_path / "elsewhere" / "architecture.json"):
        assert masktas.load(path).predict(folder / "photos") == before


def test_a_run_stands_for_its_main_network(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a RUN with a finetune/main"):
        masktas.load(tmp_path)
    shutil.copytree(folder / "net", tmp_path / "finetune" / "main")
    assert masktas.load(tmp_path).folder == tmp_path / "finetune" / "main"


def test_a_network_without_labels_embeds_only(folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    save_classifier(tmp_path, seen=replace(SEEN, classes=None))
    network = masktas.load(tmp_path)
    photo = folder / "photos/a-plain.png"
    found = network.embed(photo).values
    pixels = decode(photo.read_bytes(), size=SEEN.stored_size, in_channels=3)[None]
    patches = patchify(network.seen.prepare(pixels, torch.device("cpu")), SHAPE.patch_size)
    tokens = load_network(tmp_path).forward_features(patches, None)
    np.testing.assert_allclose(found, tokens[:, 1:].mean(dim=1).detach(), atol=1e-5)
    with pytest.raises(LabelError, match="trained without labels"):
        network.predict(folder / "photos")
    # the backbone of a segmenter may be one whose last norm is of the mean
    save_classifier(
        tmp_path, seen=replace(SEEN, classes=None), shape=replace(SHAPE, pool="mean-norm")
    )
    assert masktas.load(tmp_path).architecture.pool == "mean-norm"


def test_an_old_folder_is_a_network_that_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    save_classifier(tmp_path, seen=None)
    network = masktas.load(tmp_path)
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    with pytest.raises(ArtifactError, match=r"no input\.json there"):
        network.embed(folder / "photos")
