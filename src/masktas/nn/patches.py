"""Images as patches, and random masking (SPEC 2; MaskTAS 2.3, after MAE).

Shapes: B images, C channels, H x W pixels, P patch side, N patches, V visible, M masked,
S = P*P*C numbers of a patch, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from masktas.errors import ConfigError

SMALLER_RATIOS = (0.75, 0.6, 0.5, 0.25)  # named in a refusal


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images `[B, C, H, W]` into patches `[B, N, S]`, row by row; within a patch: P, P, C."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    x = x.permute(0, 2, 4, 3, 5, 1)  # [B, rows, columns, P, P, C]
    return x.reshape(batch, rows * columns, patch_size * patch_size * channels)


def visible_patches(images: Tensor, patch_size: int, ids: Tensor) -> Tensor:
    """Cut only the patches `ids [B, V]` out of images `[B, C, H, W]`: `[B, V, S]`.

    Equal to `take(patchify(images, patch_size), ids)`, without a copy of all other patches.
    """
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    x = x.permute(0, 2, 4, 3, 5, 1)  # [B, rows, columns, P, P, C], a view
    image = torch.arange(batch, device=ids.device)[:, None]
    return x[image, ids // columns, ids % columns].flatten(2)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Put patches `[B, N, S]` together to images `[B, C, H, W]`: the inverse of `patchify`."""
    batch, (rows, columns) = patches.shape[0], grid
    x = patches.reshape(batch, rows, columns, patch_size, patch_size, -1)
    x = x.permute(0, 5, 1, 3, 2, 4)  # [B, C, rows, P, columns, P]
    return x.reshape(batch, -1, rows * patch_size, columns * patch_size)


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """Return `N_v = floor(N (1 - r))`, exact also if r has no exact binary form."""
    return math.floor(round(num_patches * (1 - mask_ratio), 6))


def num_visible_checked(total: int, mask_ratio: float, least: int) -> int:
    """Return `num_visible` of `total` patches (units), or refuse an unsuitable mask ratio.

    Raises:
        ConfigError: if fewer than `least` patches stay visible, or all.
    """
    visible = num_visible(total, mask_ratio)
    if not least <= visible < total:
        fits = [one for one in SMALLER_RATIOS if least <= num_visible(total, one) < total]
        example = f" (such as {fits[0]})" if fits and visible < least else ""
        raise ConfigError(
            f"mask_ratio {mask_ratio} leaves {visible} of {total} patches visible, where "
            f"{least} to {total - 1} are needed: choose another mask_ratio{example}, a larger "
            "image_size or a smaller patch_size."
        )
    return visible


def random_masking(noise: Tensor, visible: int) -> tuple[Tensor, Tensor]:
    """Choose visible patches uniformly at random.

    Args:
        noise: `[B, N]`, independent uniform numbers; the smallest are kept.
        visible: V, number of visible patches.

    Returns:
        `ids_keep [B, V]` and `ids_masked [B, M]`, a partition of the patch indices.
    """
    order = torch.argsort(noise, dim=1, stable=True)
    return order[:, :visible], order[:, visible:]


def masking_noise(batch: int, num_patches: int, seed: int) -> Tensor:
    """Draw the noise of `random_masking`, `[B, N]`, on the CPU: equal on all devices."""
    return torch.rand(batch, num_patches, generator=torch.Generator().manual_seed(seed))


def take(x: Tensor, ids: Tensor) -> Tensor:
    """Pick the tokens `ids [B, V]` of `x [B, N, D]`, or of `[1, N, D]`, shared by all images."""
    x = x.expand(ids.shape[0], -1, -1)
    return torch.gather(x, 1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def sincos_positions(embed_dim: int, grid: tuple[int, int]) -> Tensor:
    """Return fixed 2-d sine-cosine positions `[1, N, D]`, half of D for each axis (MAE).

    If 4 does not divide D, the last channels are zero.
    """
    quarter = embed_dim // 4
    frequencies = 1 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    rows = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0])
    waves = [axis[:, None] * frequencies for axis in (columns, rows)]  # 2 x [N, D/4]
    parts = [wave for angle in waves for wave in (angle.sin(), angle.cos())]
    positions = torch.zeros(1, grid[0] * grid[1], embed_dim)
    positions[0, :, : 4 * quarter] = torch.cat(parts, dim=1).float()
    return positions
