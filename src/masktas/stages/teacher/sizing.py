"""What images a teacher is pre-trained on, and its shape: from the space, or from the images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from masktas.config import DataSettings, SupernetSettings, TeacherSettings, resolve
from masktas.config.derived import teacher_for
from masktas.data.decode.image import Content, dimensions, is_grey
from masktas.data.sources import Source
from masktas.errors import DataError, MasktasError
from masktas.formats import format_size
from masktas.space import SearchSpace
from masktas.stages.common.images import Data, ImageInput

SAMPLED = 32  # images of a shard whose sizes are read
SAMPLED_BYTES = 64 << 20  # of a shard, after which no more are read: files come whole
PATCHES = (16, 8, 4)  # sides to choose from, in pixels
LEAST_PATCHES = 49  # of an image: 28 pixels in patches of 4, as the space demo has
SMALLER = 2  # images that are enlarged by more than this factor are worth a warning
SMALL = 112  # shorter sides up to this get the widths of the space micro


@dataclass(frozen=True, slots=True)
class Sample:
    """What the headers of some images say.

    Attributes:
        sizes: (height, width) of each.
        grey: whether each has one channel only.
    """

    sizes: tuple[tuple[int, int], ...]
    grey: bool = False


def sample(source: Source) -> Sample:
    """Read the headers of some images; unreadable ones are skipped.

    They are the first ones of the first and of the last shard.
    """
    found: list[tuple[tuple[int, int], bool]] = []
    for shard in sorted({0, source.num_shards - 1}):
        num_bytes = 0
        try:
            for item in itertools.islice(source.stream(shard), SAMPLED):
                found += _header(item.content)
                num_bytes += item.num_bytes
                if num_bytes > SAMPLED_BYTES:
                    break
        except MasktasError:  # opening the store reports it
            continue
    return Sample(tuple(size for size, _ in found), all(grey for _, grey in found))


def _header(content: Content | None) -> list[tuple[tuple[int, int], bool]]:
    """Return the size of an image, and whether it is grey; none if it cannot be read."""
    try:
        return [] if content is None else [(dimensions(content), is_grey(content))]
    except DataError:  # decoding counts it
        return []


def space_for(image_size: tuple[int, int], in_channels: int, patch_size: int) -> SearchSpace:
    """Return a space for images of a size, whose teacher suits them.

    Raises:
        SpaceError: if the patches do not divide the image.
    """
    small = min(image_size) <= SMALL
    space = SearchSpace.preset("micro") if small else SearchSpace.load(SupernetSettings().space)
    return space.replace(image_size=image_size, patch_size=patch_size, in_channels=in_channels)


def patch_for(image_size: tuple[int, int], settings: TeacherSettings) -> int:
    """Return the patch size: as set, or the largest that gives enough patches, or the smallest."""
    if "patch_size" in settings.model_fields_set:
        return settings.patch_size
    height, width = image_size
    for side in PATCHES:
        patches = (height // side) * (width // side)
        if not (height % side or width % side) and patches >= LEAST_PATCHES:
            return side
    return PATCHES[-1]


def sized(
    data: Data,
    settings: TeacherSettings,
    data_settings: DataSettings | None,
    space: SearchSpace | None,
    headers: Sample,
) -> tuple[TeacherSettings, ImageInput, str]:
    """Return the settings of a teacher and its images, with what the user has not set filled in.

    Size, channels and the teacher's shape follow from the space. Without one they follow from the
    size that is set, or from the images if all are alike and smaller than those of the default
    space; else from the default space. Channels that neither the space nor the user sets follow
    from the images where the size does, or is another one than that of the default space: 1 if
    all are grey, else 3.

    Args:
        data: where the images are.
        settings: of the teacher.
        data_settings: image size and channels, as far as they are set.
        space: of the students; None if it is not known yet.
        headers: of some images, see `sample`.

    Returns:
        Both, and a word on what the sizes are taken from.
    """
    given = data_settings or DataSettings()
    sizes, channels = (
        headers.sizes,
        given.in_channels or (1 if headers.grey and headers.sizes else 3),
    )
    default = SearchSpace.load(SupernetSettings().space)
    alike = len(set(sizes)) == 1 and min(sizes[0]) < min(default.image_size)
    alike = alike and not any(side % patch_for(sizes[0], settings) for side in sizes[0])
    if space is not None:
        source = f"space {space.name}"
    elif given.image_size is not None:
        source = f"--image-size {given.image_size}"
        size = ImageInput.of(data, given).image_size
        if size == default.image_size:
            channels = given.in_channels or default.in_channels
        space = space_for(size, channels, patch_for(size, settings))
    elif alike and settings.init is None:
        source = "the images"
        space = space_for(sizes[0], channels, patch_for(sizes[0], settings))
    else:
        source, space = f"the default space {default.name}", default
    shape = {"image_size": format_size(space.image_size), "in_channels": space.in_channels}
    images = ImageInput.of(data, resolve(DataSettings, shape, given))
    return teacher_for(space, settings), images, source


def mostly_enlarged(
    image_size: tuple[int, int], sizes: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """Return the size of an image if most are enlarged by more than a factor of 2, else None."""
    small = [one for one in sizes if SMALLER * min(one) < min(image_size)]
    return small[0] if 2 * len(small) > len(sizes) else None
