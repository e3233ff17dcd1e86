"""The share of an image that is masked, where the user sets none."""

from __future__ import annotations

import math

from pydantic import Field

from masktas.config.fields import Settings, Share

PAPER_RATIO = 0.9  # of 196 patches (MaskTAS 3.1)
ENOUGH = 6  # visible units: what the paper's ratio leaves of 64, such as 32 pixels in patches of 4
FEWEST = 3  # visible units of very small images: each is compared with two others


def default_mask_ratio(total: int) -> float:
    """Return the paper's ratio, or for few units the largest one that leaves enough visible.

    Enough are 6, or half of the units if that is less, but 3 at least. It has two decimals.

    Args:
        total: number of units of an image.
    """
    if round(total * (1 - PAPER_RATIO), 6) >= ENOUGH or total <= FEWEST:
        return PAPER_RATIO
    visible = max(FEWEST, min(ENOUGH, total // 2))
    return math.floor(100 * (total - visible) / total) / 100


class MaskRatioSettings(Settings):
    """A masking ratio that follows from the number of units, unless it is set."""

    mask_ratio: Share | None = Field(
        None,
        description="Share r of the patches that is masked; 0 shows all of them. By default the "
        "paper's 0.9, or less if fewer than 6 would stay visible.",
    )

    def ratio_for(self, total: int) -> float:
        """Return the masking ratio of images of `total` units."""
        return default_mask_ratio(total) if self.mask_ratio is None else self.mask_ratio
