"""`input.json`: how images become a network's input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.errors import ArtifactError
from masktas.train.input import NetworkInput
from masktas.train.networks import save_network
from used import SEEN, SHAPE, save_classifier


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    for classes in (SEEN.classes, None):
        seen = NetworkInput((16, 16), (19, 20), 3, 4095.0, (0.1,) * 3, (0.3,) * 3, classes)
        seen.save(tmp_path)
        assert NetworkInput.load(tmp_path, SHAPE) == seen


def test_images_are_prepared_bit_for_bit_as_batches_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 19, 20, 3), dtype=np.uint8)
    batches = Batches(
        Images(InMemory(pixels), np.arange(5), "test"),
        image_size=(16, 16),
        mean=list(SEEN.mean),
        std=list(SEEN.std),
        batch_size=1,
        seed=0,
        device=torch.device("cpu"),
        augment=Augment(),
    )
    prepared = SEEN.prepare(pixels, torch.device("cpu"))
    assert torch.equal(prepared, batches.plain(np.arange(5)))
    by_hand = (pixels[:, 1:17, 2:18] / 255 - np.array(SEEN.mean)) / np.array(SEEN.std)
    assert np.allclose(prepared.numpy(), by_hand.transpose(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"std": [0.2, 0.0, 0.1]}, "std is not above 0"),
        ({"mean": [0.5]}, "do not have 3 numbers"),
        ({"mean": [0.5, float("nan"), 0.5]}, "not finite"),
        ({"stored_size": [8, 8]}, "stored_size is below image_size"),
        ({"image_size": [0, 16]}, "a size is below 1"),
        ({"white": "bright"}, "could not convert"),
        ({"image_size": [12, 12]}, r"image_size is \(12, 12\) there and \(16, 16\)"),
        ({"classes": ["cat", "dog"]}, "classes is 2 there and 3 in architecture.json"),
    ],
)
def test_a_damaged_or_wrong_file_is_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    save_classifier(tmp_path)
    path = tmp_path / "input.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=words):
        NetworkInput.load(tmp_path, SHAPE)


def test_a_network_saved_without_input_leaves_no_earlier_file(tmp_path: Path) -> None:
    network = save_classifier(tmp_path)
    save_network(tmp_path, network)
    assert not (tmp_path / "input.json").exists()
    assert NetworkInput.load(tmp_path, SHAPE) is None
