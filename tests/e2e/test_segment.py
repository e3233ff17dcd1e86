"""`masktas segment`: from masks to a tested segmenter, killed in between, with odd input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from masktas.errors import Stopped
from masktas.files import file_digest, read_lines
from masktas.train.loop import Training
from masktas.train.networks import load_network
from masktas.train.segmenters import load_segmenter
from pairs import drawn, encoded, write_pairs
from worlds import manifest

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
SHAPE = {"embed_dim": 16, "num_heads": [1, 2, 1], "mlp_ratio": [2, 2, 2], "head_dim": 8,
         "image_size": 16, "patch_size": 4}  # fmt: skip
FLAGS = {"--init": "scratch", "--epochs": 3, "--batch-size": 2, "--lr": 0.3, "--channels": 8,
         "--search-share": 0.1, "--validation-share": 0.2, "--test-share": 0.2,
         "--classes": "ground,red,green"}  # fmt: skip
FILES = ("weights.safetensors", "segmenter.safetensors", "segmenter.json", "metrics.jsonl",
         "architecture.json", "input.json", "examples.png", "examples.json")  # fmt: skip


def flags(**other: object) -> tuple[object, ...]:
    """Return the common flags, with others over them."""
    given = FLAGS | {f"--{name.replace('_', '-')}": value for name, value in other.items()}
    return (*(token for pair in given.items() for token in pair), "--no-tensorboard")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_pairs(tmp_path_factory.mktemp("data"), 12)
    (root / "shape.json").write_text(json.dumps(SHAPE))
    return root


@pytest.mark.slow
def test_killed_and_resumed_bit_for_bit(
    data: Path, tmp_path: Path, masktas: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("segment", data, "--architecture", data / "shape.json", *flags())
    code, _, said = masktas(*common, "--out", tmp_path / "whole")
    assert code == 0, said
    assert "3 classes, 6.2% of the training pixels are ignored" in said
    whole = tmp_path / "whole/segment/main"
    killed = tmp_path / "killed/segment/main"
    do, times = Training._do, []

    def stops(self: Training, step: int) -> None:
        do(self, step)
        times.append(step)
        if len(times) in (3, 9):  # in the first epoch, and in the last
            raise Stopped("killed", exit_code=75)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_do", stops)
        for _ in range(2):
            code, *_ = masktas(*common, "--out", killed.parents[1], "--checkpoint-seconds", 0)
            assert code == 75
    code, _, said = masktas(*common, "--out", killed.parents[1])
    assert code == 0, said
    assert "Resuming from step" in said
    for name in FILES:
        assert file_digest(whole / name) == file_digest(killed / name), name
    made = manifest(whole)
    assert made["test"] == manifest(killed)["test"]
    told = [line["validation_miou"] for line in read_lines(whole / "metrics.jsonl")
            if "validation_miou" in line]  # fmt: skip
    assert len(told) == 3
    assert made["validation"]["miou"] == max(told)
    assert made["decoder"]["params"] > 0
    assert set(made["per_class"]) | set(made["absent"]) == {"ground", "red", "green"}
    network, facts = load_segmenter(whole)
    assert facts.classes == ("ground", "red", "green")
    assert network.architecture.image_size == (16, 16)


def test_learns_and_is_a_backbone_at_another_size(
    data: Path, tmp_path: Path, masktas: Call
) -> None:
    common = ("segment", data, "--out", tmp_path, "--architecture")
    code, _, said = masktas(
        *common, data / "shape.json", *flags(decoder="linear", epochs=20, validate_every=10)
    )
    assert code == 0, said
    folder = tmp_path / "segment/main"
    made = manifest(folder)
    largest = max(one["share"] for one in made["per_class"].values())
    assert made["test"]["pixel_accuracy"] > largest, "better than the most frequent class"
    told = [line["epoch"] for line in read_lines(folder / "metrics.jsonl")
            if "validation_miou" in line]  # fmt: skip
    assert told == [10, 20]
    more = flags(init="inherit", name="larger", image_size="24x32", epochs=1, lr=1e-12)
    code, _, said = masktas(*common, folder, *more)
    assert code == 0, said
    larger = manifest(tmp_path / "segment/larger")
    assert larger["images"]["mean"] == pytest.approx(made["images"]["mean"])
    assert larger["settings"]["architecture"]["image_size"] == [24, 32]
    before, after = load_network(folder), load_network(tmp_path / "segment/larger")
    grid = before.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    resized = F.interpolate(grid, (6, 8), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    assert torch.allclose(after.pos_embed[:, 1:], resized, atol=1e-5)
    assert torch.allclose(after.blocks[2].fc1.weight, before.blocks[2].fc1.weight, atol=1e-5)
    code, said, _ = masktas("show", tmp_path)
    assert code == 0
    assert f"mIoU {made['test']['miou']:.2%}" in said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_size": 18}, "18"),
        ({"limit": 3}, "--limit does not apply to images with masks"),
        ({"in_channels": 1}, "--in-channels 3"),
        ({"batch_size": 500}, "fewer than one batch of 500"),
        ({"classes": "a,b"}, "none of the 2 classes (0 to 1)"),
    ],
)
def test_bad_input_is_one_sentence(
    data: Path, tmp_path: Path, masktas: Call, wrong: dict[str, object], said: str
) -> None:
    code, _, error = masktas("segment", data, "--out", tmp_path, "--architecture",
                             data / "shape.json", *flags(**wrong))  # fmt: skip
    assert code == 2
    assert said in error
    assert not (tmp_path / "segment/main/metrics.jsonl").exists()


def test_changed_masks_are_refused_on_resume(data: Path, tmp_path: Path, masktas: Call) -> None:
    root = write_pairs(tmp_path / "own", 12)
    common = ("segment", root, "--out", tmp_path / "run", "--architecture", data / "shape.json",
              *flags(decoder="linear", max_time="0.001s"))  # fmt: skip
    assert masktas(*common)[0] == 75
    mask = drawn(3)[1]
    mask[10:20] = 2
    (root / "masks/3.png").write_bytes(encoded(np.ascontiguousarray(mask)))
    code, _, said = masktas(*common)
    assert code == 2
    assert "the images have changed since this stage was started" in said
