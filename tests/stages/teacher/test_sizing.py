"""Size, channels, patches and width of a teacher: from the space, the flags, or the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masktas.config import DataSettings, TeacherSettings
from masktas.data.sources import open_source
from masktas.errors import SpaceError
from masktas.space import SearchSpace
from masktas.stages.teacher import sizing
from masktas.stages.teacher.sizing import Sample, patch_for, sample, sized, space_for

DEFAULT = TeacherSettings()
SMALL, LARGE = [(32, 32)] * 5, [(224, 224)] * 5


def shape(settings: TeacherSettings) -> tuple[int, int, int, int]:
    """Patch size, width, depth and heads."""
    return settings.patch_size, settings.embed_dim, settings.depth, settings.num_heads


def made(
    settings: TeacherSettings = DEFAULT,
    data: DataSettings | None = None,
    space: SearchSpace | None = None,
    sizes: Any = (),
    *,
    grey: bool = False,
) -> tuple[TeacherSettings, tuple[int, int], int, str]:
    """The teacher's settings, image size, channels, and what they are taken from."""
    filled, images, source = sized("photos", settings, data, space, Sample(tuple(sizes), grey))
    return filled, images.image_size, images.in_channels, source


@pytest.mark.parametrize(
    ("image_size", "patch_size"),
    [
        ((224, 224), 16),
        ((112, 112), 16),
        ((96, 96), 8),  # 36 patches of 16 are too few
        ((64, 64), 8),
        ((32, 32), 4),
        ((28, 28), 4),  # exactly 49
        ((16, 16), 4),  # none gives enough: the smallest
        ((112, 224), 16),
        ((224, 216), 8),  # 16 does not divide 216
        ((30, 30), 4),  # none divides it: `space_for` refuses
    ],
)
def test_patches_are_the_largest_that_give_enough(
    image_size: tuple[int, int], patch_size: int
) -> None:
    assert patch_for(image_size, DEFAULT) == patch_size
    assert patch_for(image_size, TeacherSettings(patch_size=2)) == 2
    assert patch_for(image_size, TeacherSettings(patch_size=16)) == 16  # set, not the default


def test_a_space_for_images_has_the_widths_of_their_size() -> None:
    small, large = space_for((32, 32), 1, 4), space_for((224, 224), 3, 16)
    assert small == SearchSpace.preset("micro").replace(in_channels=1)
    assert large == SearchSpace.preset("small")
    assert small.patch_size == (4,)
    assert space_for((112, 500), 3, 4).embed_dim == small.embed_dim
    assert space_for((113 * 16, 128), 3, 16).embed_dim == large.embed_dim
    with pytest.raises(SpaceError):
        space_for((30, 30), 3, 4)


@pytest.mark.parametrize("name", ["wide", "wide-micro"])
def test_a_space_of_several_patch_sizes_gives_the_finest(name: str) -> None:
    space = SearchSpace.preset(name)
    filled, size, channels, source = made(space=space, sizes=LARGE)
    assert shape(filled)[0] == min(space.patch_size)
    assert (size, channels, source) == (space.image_size, 3, f"space {name}")
    width = 1.2 * max(space.embed_dim)
    assert width - 1 <= filled.embed_dim < width + space.head_dim
    assert filled.embed_dim == filled.num_heads * space.head_dim
    assert filled.depth == max(space.depth)


def test_patches_that_are_set_win_over_those_of_the_space() -> None:
    space = SearchSpace.preset("wide-micro")
    filled, *_ = made(TeacherSettings(patch_size=8), space=space)
    assert filled.patch_size == 8
    assert filled.embed_dim == made(space=space)[0].embed_dim


def test_small_images_that_are_alike_are_taken_as_they_are() -> None:
    filled, size, channels, source = made(sizes=SMALL)
    assert (size, channels, source) == ((32, 32), 3, "the images")
    assert shape(filled) == (4, 192, 6, 6)


@pytest.mark.parametrize(
    "sizes",
    [
        LARGE,
        [(500, 400)] * 3,
        [(32, 32), (32, 33)],  # not alike
        [(30, 30)] * 3,  # patches of 4 do not tile it
        [],  # none could be read
    ],
)
def test_other_images_are_resized_to_the_default_space(sizes: list[tuple[int, int]]) -> None:
    filled, size, _, source = made(sizes=sizes)
    assert (size, source) == ((224, 224), "the default space small")
    assert shape(filled) == (16, 576, 14, 9)


def test_a_size_that_is_set_wins_over_the_images() -> None:
    filled, size, _, source = made(data=DataSettings(image_size="64"), sizes=SMALL)
    assert (size, source) == ((64, 64), "--image-size 64")
    assert shape(filled) == (8, 192, 6, 6)
    filled, size, *_ = made(data=DataSettings(image_size="224"), sizes=SMALL)
    assert (size, shape(filled)) == ((224, 224), (16, 576, 14, 9))
    with pytest.raises(SpaceError):
        made(data=DataSettings(image_size="30"))


def test_flags_win_over_everything() -> None:
    said = TeacherSettings(patch_size=8, embed_dim=64, depth=3, num_heads=2)
    for space in (None, SearchSpace.preset("micro"), SearchSpace.preset("wide")):
        filled, *_ = made(said, space=space, sizes=SMALL)
        assert shape(filled) == (8, 64, 3, 2)
    # a width without heads has heads that divide it
    filled, *_ = made(TeacherSettings(embed_dim=100), sizes=SMALL)
    assert filled.embed_dim == 100
    assert 100 % filled.num_heads == 0
    data = DataSettings(image_size="48", in_channels=1)
    filled, size, channels, _ = made(data=data, space=SearchSpace.preset("micro"))
    assert (size, channels, filled.patch_size) == ((48, 48), 1, 4)


def test_patches_that_are_set_decide_whether_images_are_taken_as_they_are() -> None:
    filled, size, *_ = made(TeacherSettings(patch_size=10), sizes=[(30, 30)] * 3)
    assert (size, filled.patch_size) == ((30, 30), 10)
    _, size, _, source = made(TeacherSettings(patch_size=7), sizes=SMALL)
    assert (size, source) == ((224, 224), "the default space small")


def test_channels_that_are_set_are_kept_with_the_size_of_the_images() -> None:
    filled, size, channels, source = made(data=DataSettings(in_channels=1), sizes=SMALL)
    assert (size, channels, source) == ((32, 32), 1, "the images")
    assert filled.patch_size == 4


@pytest.mark.parametrize(
    ("data", "space", "channels"),
    [
        ({}, None, 1),
        ({"image_size": "64"}, None, 1),
        ({"image_size": "224"}, None, 3),  # what the default space takes
        ({"in_channels": 3}, None, 3),
        ({"image_size": "64", "in_channels": 4}, None, 4),
        ({}, "micro", 3),
        ({}, "digits", 1),
    ],
)
def test_grey_images_have_one_channel_unless_flags_or_space_say_otherwise(
    data: dict[str, Any], space: str | None, channels: int
) -> None:
    given = None if space is None else SearchSpace.preset(space)
    assert made(data=DataSettings(**data), space=given, sizes=SMALL, grey=True)[2] == channels
    assert made(data=DataSettings(**data), space=given, sizes=SMALL)[2] == (
        3 if channels == 1 and given is None else channels
    )


def test_large_grey_images_have_the_channels_of_the_default_space() -> None:
    assert made(sizes=LARGE, grey=True)[1:3] == ((224, 224), 3)
    assert made(sizes=(), grey=True)[2] == 3


@pytest.mark.parametrize("modes", [("L",), ("L", "I;16", "LA", "1"), ("L", "RGB"), ("P",)])
def test_images_are_grey_if_all_of_them_are(tmp_path: Path, modes: tuple[str, ...]) -> None:
    for number, mode in enumerate(modes):
        Image.new(mode, (8, 8)).save(tmp_path / f"{number}.png")
    assert sample(open_source(tmp_path)).grey is not bool({"RGB", "P"} & set(modes))


def test_a_teacher_that_starts_from_weights_keeps_their_shape() -> None:
    said = TeacherSettings(init="somewhere")
    filled, size, _, source = made(said, sizes=SMALL)
    assert filled == said
    assert (size, source) == ((224, 224), "the default space small")


def test_sizes_are_read_from_headers_and_unreadable_images_are_skipped(tmp_path: Path) -> None:
    for name, side in (("a", 8), ("c", 9), ("d", 10)):
        pixels = np.zeros((side, 2 * side, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert sample(open_source(tmp_path)) == Sample(((8, 16), (9, 18), (10, 20)), grey=False)


def test_few_large_images_are_read_for_their_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{number}.png")
    source = open_source(tmp_path)
    assert len(sample(source).sizes) == 8
    one = next(iter(source.stream(0))).num_bytes
    monkeypatch.setattr(sizing, "SAMPLED_BYTES", 2 * one)
    assert len(sample(source).sizes) == 3  # the one that reaches the limit is read whole
    monkeypatch.setattr(sizing, "SAMPLED_BYTES", 0)
    assert len(sample(source).sizes) == 1
