"""Which patch sizes go together: squares of an image that patches of several sizes tile.

Such a square is a unit (SPEC 6.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

MIN_UNITS = 16  # of an image, if there are several patch sizes: fewer are too few to mask


def common_unit(image_size: tuple[int, int], patch_sizes: Iterable[int]) -> int | None:
    """Return the side of the smallest square that patches of all these sizes tile.

    None if these squares do not tile the image, or if there are several patch sizes and fewer than
    `MIN_UNITS` of them.
    """
    sizes = set(patch_sizes)
    unit = math.lcm(*sizes)
    rows, columns = (side // unit for side in image_size)
    if (rows * unit, columns * unit) != image_size:
        return None
    return unit if len(sizes) == 1 or rows * columns >= MIN_UNITS else None


def patch_in(image_size: tuple[int, int], grid: tuple[int, int]) -> int | None:
    """Return the side of a square patch of a grid over an image; None if there is none."""
    (height, width), (rows, columns) = image_size, grid
    side = height // rows
    return side if side and (rows * side, columns * side) == (height, width) else None


def patch_sizes_together(image_size: tuple[int, int]) -> list[tuple[int, ...]]:
    """List the groups of patch sizes that have a common unit, none within another."""
    sizes = [size for size in range(1, min(image_size) + 1) if math.gcd(*image_size) % size == 0]
    units = [size for size in sizes if common_unit(image_size, (size, 1)) is not None]
    widest = [one for one in units if not any(more > one and more % one == 0 for more in units)]
    groups = [tuple(size for size in sizes if unit % size == 0) for unit in widest]
    return [group for group in groups if len(group) > 1]
