"""Other ways to rate without labels, to be tried beside the usual ones.

What the paper leaves open: rows, temperature, the pair of a patch with itself, the class token
(16), and how much is hidden, how often.
"""

from __future__ import annotations

import itertools
from typing import TypeVar

from masktas.config import RatingSettings
from masktas.errors import ConfigError
from masktas.nn.supernet import Supernet
from masktas.ratings.label_free import Consistency, PatchSimilarity, Rating
from masktas.stages.common.evaluator import visible_of

S = TypeVar("S", bound=RatingSettings)
ROWS = ("raw", "scaled", "unit")
TEMPERATURES = (0.05, 0.2, 1.0)
RATIOS = (0.0, 0.5, 0.75, 0.9)
MASKS = 4


def relations(settings: RatingSettings, *, class_token: bool) -> dict[str, Rating]:
    """Return consistencies that see what the usual one sees, and compare rows otherwise.

    Args:
        settings: the usual one, which is left out.
        class_token: whether the teacher has one.
    """
    usual = PatchSimilarity(settings.temperature, settings.rows, settings.include_self)
    tried = {
        f"consistency {rows} {temperature:g}{' self' if itself else ''}": PatchSimilarity(
            temperature, rows, itself
        )
        for rows, temperature, itself in itertools.product(ROWS, TEMPERATURES, (False, True))
    }
    made: dict[str, Rating] = {
        name: Consistency(relation, class_token=settings.class_token)
        for name, relation in tried.items()
        if relation != usual
    }
    if settings.class_token:
        made["consistency patches"] = Consistency(usual)
    elif class_token:
        made["consistency class token"] = Consistency(usual, class_token=True)
    return made


def views(settings: S, shared: Supernet) -> dict[str, S]:
    """Return settings with other masks, by what is other, where enough is left to be seen.

    Each takes a pass of its own over the images.
    """
    changes: dict[str, dict[str, float]] = {
        f"mask {ratio:g}": {"mask_ratio": ratio} for ratio in RATIOS if ratio != settings.mask_ratio
    }
    if settings.mask_ratio > 0 and settings.num_masks != MASKS:  # else one mask is like another
        changes[f"{MASKS} masks"] = {"num_masks": MASKS}
    if "mask 0" in changes:
        changes["mask 0"]["num_masks"] = 1
    made = {name: settings.model_copy(update=change) for name, change in changes.items()}
    return {name: changed for name, changed in made.items() if _possible(changed, shared)}


def _possible(settings: RatingSettings, shared: Supernet) -> bool:
    try:
        visible_of(shared, settings, ("consistency",))
    except ConfigError:
        return False
    return True
