"""The default share of masked units follows from their number."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from masktas.config import RefineSettings, SearchSettings, SupernetSettings, ValidateSettings, load
from masktas.config.masking import default_mask_ratio
from masktas.nn.patches import num_visible


@pytest.mark.parametrize(
    ("total", "ratio", "visible"),
    [
        (196, 0.9, 19),
        (64, 0.9, 6),
        (60, 0.9, 6),
        (49, 0.87, 6),
        (16, 0.62, 6),
        (12, 0.5, 6),
        (9, 0.55, 4),
        (5, 0.4, 3),
        (4, 0.25, 3),
        (3, 0.9, 0),  # refused: nothing would be left to mask, or too little to compare
    ],
)
def test_few_units_are_masked_less(total: int, ratio: float, visible: int) -> None:
    assert default_mask_ratio(total) == ratio
    assert num_visible(total, ratio) == visible


def test_of_any_number_of_units_enough_are_visible_and_no_more_than_needed() -> None:
    for total in range(4, 500):
        visible = num_visible(total, default_mask_ratio(total))
        least = max(3, min(6, total // 2))
        assert least <= visible < total
        assert visible == max(least, math.floor(round(total * 0.1, 6)))


def test_a_ratio_that_is_set_is_kept() -> None:
    for kind in (SupernetSettings, SearchSettings, ValidateSettings):
        assert kind().ratio_for(16) == 0.62
        assert kind(mask_ratio=0.9).ratio_for(16) == 0.9
    assert SearchSettings(mask_ratio=0).ratio_for(16) == 0
    assert not SearchSettings(mask_ratio=0).is_masked
    assert SearchSettings().is_masked
    trained = SupernetSettings(mask_ratio=0.62)
    assert RefineSettings().of_supernet(trained).mask_ratio == 0.62


def test_a_refinement_trains_as_its_supernet_did_where_nothing_else_is_said() -> None:
    trained = SupernetSettings(lr=4e-3, weight_decay=0.1, clip_grad=1.0, warmup_share=0.3)
    refined = RefineSettings(weight_decay=0.2).of_supernet(trained)
    assert (refined.lr, refined.weight_decay, refined.clip_grad) == (4e-3, 0.2, 1.0)
    assert refined.warmup_share == RefineSettings().warmup_share  # of a round, not of all epochs


def test_the_paper_masks_nine_of_ten_whatever_their_number() -> None:
    paper = load(Path("paper"))
    assert [paper[name]["mask_ratio"] for name in ("supernet", "search", "validate")] == [0.9] * 3
