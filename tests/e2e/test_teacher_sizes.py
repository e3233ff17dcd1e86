"""`masktas teacher` takes size, patches and width from the space, the images, or the flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masktas.files import read_json
from masktas.space import Architecture
from worlds import World

pytestmark = pytest.mark.e2e
Call = Callable[..., tuple[int, str, str]]
QUICK = ("--epochs", 1, "--batch-size", 8, "--decoder-dim", 32)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Images of 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "tiny"
    folder.mkdir()
    for number in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_small_images_alike_get_a_teacher_in_proportion(
    tiny: Path, tmp_path: Path, masktas: Call
) -> None:
    code, _, said = masktas("teacher", tiny, "--out", tmp_path / "run", *QUICK)
    assert code == 0, said
    assert "Teacher: 32 x 32 pixels of 3 channels in patches of 4, 192 wide, 6 blocks" in said
    assert "(from the images, where not set)" in said
    assert "enlarged" not in said
    shape = Architecture.load(tmp_path / "run/teacher/architecture.json")
    assert (shape.image_size, shape.patch_size, shape.embed_dim) == ((32, 32), 4, 192)


@pytest.mark.slow
def test_the_space_of_the_configuration_gives_size_and_shape(
    world: World, tmp_path: Path, masktas: Call
) -> None:
    common = ("--config", world.recipe, *QUICK[:4])
    code, _, said = masktas("teacher", world.images, "--out", tmp_path / "run", *common)
    assert code == 0, said
    assert "Teacher: 16 x 16 pixels of 3 channels in patches of 4, 32 wide, 3 blocks" in said
    assert "(from space small-world, where not set)" in said
    code, _, said = masktas("supernet", "--out", tmp_path / "run", *common, "--quiet")
    assert code == 0, said
    # explicit flags win
    flags = ("--embed-dim", 24, "--depth", 2)
    code, _, said = masktas("teacher", world.images, "--out", tmp_path / "b", *common, *flags)
    assert code == 0, said
    settings = read_json(tmp_path / "b/teacher/settings.json")["settings"]
    assert (settings["embed_dim"], settings["depth"], settings["num_heads"]) == (24, 2, 3)


def test_images_that_are_enlarged_are_warned_of_before_they_are_decoded(
    tiny: Path, tmp_path: Path, masktas: Call
) -> None:
    flags = ("--image-size", 96, "--embed-dim", 16, "--depth", 1, "--num-heads", 1)
    code, _, said = masktas(
        "teacher", tiny, "--out", tmp_path / "run", *QUICK, *flags, "--decoder-depth", 1
    )
    assert code == 0, said
    words = " ".join(said.split())
    assert "Images of 32 x 32 pixels are enlarged to 96 x 96" in words
    assert "--image-size 32" in words
    assert words.index("are enlarged") < words.index("steps of 8 images")
