"""Variants of the ratings without labels, which validation compares with the usual ones.

They vary what the paper leaves open: rows, temperature, the pair of a patch with itself and the
class token (16), the mask ratio and the number of masks.
"""

from __future__ import annotations

import itertools
from typing import TypeVar

from masktas.config import FIT, RatingSettings
from masktas.errors import ConfigError
from masktas.ratings.batches import num_visible_for
from masktas.ratings.label_free import Consistency, PatchSimilarity, Rating, similarity_of

S = TypeVar("S", bound=RatingSettings)
ROWS = ("raw", "scaled", "unit")
TEMPERATURES = (0.05, 0.2, 1.0)
RATIOS = (0.0, 0.5, 0.75, 0.9)
NUM_MASKS = 4


def similarities(settings: RatingSettings, *, class_token: bool) -> dict[str, Rating]:
    """Return consistencies on the same masks with other similarities of patches, by name.

    Args:
        settings: of the usual consistency, which is left out.
        class_token: whether the teacher has one.
    """
    usual = similarity_of(settings)
    tried = {
        f"consistency {rows} {temperature:g}{' self' if include_self else ''}": PatchSimilarity(
            temperature, rows, include_self
        )
        for rows, temperature, include_self in itertools.product(ROWS, TEMPERATURES, (False, True))
    }
    made: dict[str, Rating] = {
        name: Consistency(similarity, class_token=settings.class_token)
        for name, similarity in tried.items()
        if similarity != usual
    }
    if settings.temperature != FIT:
        made["consistency fit"] = Consistency(usual, fitted=True)
        made["projected fit"] = Consistency(usual, fitted=True, projected=True)
    if settings.class_token:
        made["consistency patches"] = Consistency(usual)
    elif class_token:
        made["consistency class token"] = Consistency(usual, class_token=True)
    return made


def other_masks(settings: S, total: int) -> dict[str, S]:
    """Return settings with other masks, by the name of the change; each needs another pass.

    Mask ratios that leave too few visible patches are left out.

    Args:
        settings: the usual ones.
        total: number of units of an image.
    """
    usual = settings.ratio_for(total)
    changes: dict[str, dict[str, float]] = {
        f"mask {ratio:g}": {"mask_ratio": ratio} for ratio in RATIOS if ratio != usual
    }
    if usual > 0 and settings.num_masks != NUM_MASKS:  # unmasked, all masks are equal
        changes[f"{NUM_MASKS} masks"] = {"num_masks": NUM_MASKS}
    if "mask 0" in changes:
        changes["mask 0"]["num_masks"] = 1
    made = {name: settings.model_copy(update=change) for name, change in changes.items()}
    return {name: changed for name, changed in made.items() if _possible(changed, total)}


def _possible(settings: RatingSettings, total: int) -> bool:
    try:
        num_visible_for(total, settings, ("consistency",))
    except ConfigError:
        return False
    return True
