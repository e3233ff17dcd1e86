"""Which splits the stages read while they train and once they have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from masktas.data.batches import Batches
from worlds import World, manifest

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
TEACHER = ("--patch-size", 4, "--image-size", 16, "--embed-dim", 32, "--depth", 2, "--num-heads", 2)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Record for what purpose, and of which split, batches are read, and the images."""
    recorded: list[tuple[str, str, NDArray[np.int64]]] = []
    plain = Batches.plain

    def recording(read: Callable[..., Any]) -> Callable[..., Any]:
        def trained(self: Batches, step: int, *rows: Any) -> Any:
            recorded.append(("train", self.images.split, self.indices(step)))
            return read(self, step, *rows)

        return trained

    def measured(self: Batches, indices: NDArray[np.int64]) -> Tensor:
        recorded.append(("plain", self.images.split, indices))
        return plain(self, indices)

    for name in ("train", "mixed"):  # of masked training, and of classifiers
        monkeypatch.setattr(Batches, name, recording(getattr(Batches, name)))
    monkeypatch.setattr(Batches, "plain", measured)
    return recorded


@pytest.mark.slow
def test_a_supernet_is_probed_on_images_it_was_not_trained_on_and_tests_come_once_at_the_end(
    reads: list[tuple[str, str, NDArray[np.int64]]], world: World, tmp_path: Path, masktas: Call
) -> None:
    common = ("--out", tmp_path / "run", "--config", world.recipe, "--quiet", "--epochs", 2)
    assert masktas("teacher", world.images, *TEACHER, *common)[0] == 0
    reads.clear()
    assert masktas("supernet", *common)[0] == 0
    assert {(kind, split) for kind, split, _ in reads} == {
        ("train", "supernet"),
        ("plain", "validation"),
    }
    assert masktas("search", *common[:-2])[0] == 0
    reads.clear()
    assert masktas("refine", *common[:-2])[0] == 0
    assert {(kind, split) for kind, split, _ in reads} == {
        ("train", "supernet"),
        ("plain", "search"),
    }
    reads.clear()
    assert masktas("finetune", *common)[0] == 0
    tests = [number for number, (_, split, _) in enumerate(reads) if split == "test"]
    assert tests == list(range(len(reads)))[-len(tests) :]
    read = np.concatenate([reads[number][2] for number in tests])
    count = manifest(tmp_path / "run/finetune/main")["images"]["splits"]["test"]["images"]
    assert sorted(read.tolist()) == list(range(count))
