"""`benchmarks/fresh_environments.py`: its programs, in the environment of the tests."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import masktas
from masktas.stages.export.forms import all_forms
from scripts import imported
from used import SEEN, save_classifier

fresh = imported("fresh_environments")


def test_every_environment_opens_a_file_of_a_form_with_pinned_packages() -> None:
    pinned = (Path(__file__).parents[1] / "requirements.lock").read_text().splitlines()
    names = {line.partition("==")[0] for line in pinned}
    files = {name for form in all_forms().values() for name in form.files}
    for one in fresh.ENVIRONMENTS:
        assert set(one.packages) <= names | {"masktas"}
        assert one.file in files | {""}
        assert ("masktas" in one.packages) == ("masktas" in one.program)


def test_photos_with_another_class_are_counted() -> None:
    assert fresh.compared(["a", "b", "b"], ["a", "b", "a"]) == {"photos": 3, "same": 2}


@pytest.mark.slow
def test_every_program_finds_the_classes_that_masktas_finds(tmp_path: Path) -> None:
    save_classifier(tmp_path / "net", seen=replace(SEEN, stored_size=(18, 18)))
    masktas.export(tmp_path / "net", out=tmp_path / "out", to="torch,hf,onnx", num_images=4)
    rng, photos = np.random.default_rng(0), []
    for number in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
        photos.append(tmp_path / f"photo {number}.png")
        coarse.resize((36, 36), Image.Resampling.BICUBIC).save(photos[-1])
    expected = [one.top[0][0] for one in masktas.load(tmp_path / "out").predict(photos, top=1)]
    assert len(set(expected)) > 1
    for one in fresh.ENVIRONMENTS:
        if (tmp_path / "out" / one.file).exists():
            found = one.classes(Path(sys.executable), tmp_path / "out", photos)
            assert fresh.compared(found, expected) == {"photos": 12, "same": 12}, one.name
