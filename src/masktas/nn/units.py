"""Units: the squares of an image that masks are made of (SPEC 6.1).

Students of several patch sizes and their teacher share masks. So a mask chooses units, squares
whose side is a multiple of every patch size. A network of patch size P has `k = U/P` patches along
each side of a unit; its patches and tokens are ordered unit by unit, and row by row within one.
With one patch size, a unit is a patch.

Shapes: B images, n units, k patches along a side, C channels, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_UNITS = 16  # fewer are too few to mask and to compare


@dataclass(frozen=True, slots=True)
class Units:
    """The units of an image.

    Attributes:
        size: U, the side in pixels.
        grid: rows and columns of units.
    """

    size: int
    grid: tuple[int, int]

    @property
    def total(self) -> int:
        """`N_u`, units of an image."""
        return self.grid[0] * self.grid[1]

    def per_side(self, patch_size: int) -> int:
        """Return k, patches of this size along the side of a unit."""
        return self.size // patch_size

    def num_patches(self, units: int, patch_size: int) -> int:
        """Return how many patches of this size `units` units have."""
        return units * self.per_side(patch_size) ** 2

    def patch_ids(self, ids: Tensor, patch_size: int) -> Tensor:
        """Return the indices of the patches of units: `[B, n]` to `[B, n k^2]`."""
        k, columns = self.per_side(patch_size), self.grid[1]
        if k == 1:
            return ids
        within = torch.arange(k, device=ids.device)
        rows = (ids // columns)[..., None, None] * k + within[:, None]  # [B, n, k, 1]
        across = (ids % columns)[..., None, None] * k + within  # [B, n, 1, k]
        return (rows * (columns * k) + across).flatten(1)

    def cut(self, units: Tensor, patch_size: int) -> Tensor:
        """Cut units `[B, n, U*U*C]` into patches `[B, n k^2, P*P*C]`."""
        k = self.per_side(patch_size)
        if k == 1:
            return units
        x = units.unflatten(2, (k, patch_size, k, patch_size, -1))  # [B, n, k, P, k, P, C]
        return x.transpose(3, 4).flatten(4).flatten(1, 3)

    def join(self, patches: Tensor, patch_size: int) -> Tensor:
        """Join patches `[B, n k^2, P*P*C]` to units `[B, n, U*U*C]`: the inverse of `cut`."""
        k = self.per_side(patch_size)
        if k == 1:
            return patches
        x = patches.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, (-1, k, k))
        return x.transpose(3, 4).flatten(2)  # [B, n, k, P, k, P, C]

    def means(self, tokens: Tensor, patch_size: int) -> Tensor:
        """Average the tokens of each unit: `[B, n k^2, D]` to `[B, n, D]`."""
        k = self.per_side(patch_size)
        return tokens if k == 1 else tokens.unflatten(1, (-1, k * k)).mean(dim=2)


def units_of(image_size: tuple[int, int], size: int) -> Units:
    """Return the units of side `size` of an image of `(H, W)` pixels."""
    return Units(size, (image_size[0] // size, image_size[1] // size))


def common_unit(image_size: tuple[int, int], patch_sizes: Iterable[int]) -> int | None:
    """Return the smallest U that all patch sizes divide; None if it does not suit the image.

    It has to tile the image and, if there are several patch sizes, leave `MIN_UNITS` units.
    """
    sizes = set(patch_sizes)
    unit = math.lcm(*sizes)
    if image_size[0] % unit or image_size[1] % unit:
        return None
    return unit if len(sizes) == 1 or units_of(image_size, unit).total >= MIN_UNITS else None


def patch_in(image_size: tuple[int, int], grid: tuple[int, int]) -> int | None:
    """Return the side of a square patch of a grid over an image; None if there is none."""
    (height, width), (rows, columns) = image_size, grid
    side = height // rows
    return side if (rows * side, columns * side) == (height, width) else None
