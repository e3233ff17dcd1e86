"""Units: the squares of an image that masks are made of (SPEC 6.1).

Students of several patch sizes and their teacher share masks. So a mask chooses units, squares
whose side is a multiple of every patch size. A network of patch size P has `k = U/P` patches along
each side of a unit; its patches and tokens are ordered unit by unit, and row by row within one.
With one patch size, a unit is a patch.

Shapes: B images, n units, k patches along a side, C channels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
        batch, total, _ = units.shape
        x = units.reshape(batch, total, k, patch_size, k, patch_size, -1)
        x = x.transpose(3, 4)  # [B, n, k, k, P, P, C]
        return x.reshape(batch, total * k * k, -1)

    def join(self, patches: Tensor, patch_size: int) -> Tensor:
        """Join patches `[B, n k^2, P*P*C]` to units `[B, n, U*U*C]`: the inverse of `cut`."""
        k = self.per_side(patch_size)
        if k == 1:
            return patches
        batch, total = patches.shape[0], patches.shape[1] // (k * k)
        x = patches.reshape(batch, total, k, k, patch_size, patch_size, -1)
        x = x.transpose(3, 4)  # [B, n, k, P, k, P, C]
        return x.reshape(batch, total, -1)

    def means(self, tokens: Tensor, patch_size: int) -> Tensor:
        """Average the tokens of each unit: `[B, n k^2, D]` to `[B, n, D]`."""
        k = self.per_side(patch_size)
        return tokens if k == 1 else tokens.unflatten(1, (-1, k * k)).mean(dim=2)


def units_of(image_size: tuple[int, int], size: int) -> Units:
    """Return the units of side `size` of an image of `(H, W)` pixels."""
    return Units(size, (image_size[0] // size, image_size[1] // size))
