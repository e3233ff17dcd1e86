"""A segmenter reads images as its backbone has seen its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from masktas.artifacts import Run
from masktas.config import DataSettings
from masktas.stages.common.images import ImageInput
from masktas.stages.common.load import normalised
from used import SEEN, save_classifier


@pytest.mark.parametrize(("given", "white"), [({}, 4095.0), ({"white": 255.0}, 255.0)])
def test_mean_std_and_white_are_those_of_the_weights(
    tmp_path: Path, given: dict[str, Any], white: float
) -> None:
    save_classifier(tmp_path, seen=replace(SEEN, white=4095.0))
    asked = ImageInput("images", DataSettings(image_size=16, in_channels=3, **given))
    path = tmp_path / "architecture.json"
    run = Run(tmp_path / "run")  # which is not there
    found = normalised(run, asked, path, {"weights": tmp_path}).settings
    assert found.white == white
    assert found.mean is not None
    assert [float(one) for one in found.mean.split(",")] == pytest.approx(SEEN.mean)
