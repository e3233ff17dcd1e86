"""Variants of ratings: all others than the usual one, where enough is left to be seen."""

from __future__ import annotations

import pytest

from masktas.config import RatingSettings, ValidateSettings
from masktas.ratings.label_free import Consistency, PatchSimilarity
from masktas.space import SearchSpace
from masktas.stages.validate.variants import other_masks, similarities

MICRO = SearchSpace.preset("micro")  # 64 patches


def test_rows_temperatures_and_the_pair_with_itself_are_tried_without_the_usual_one():
    made = similarities(RatingSettings(), class_token=False)
    for name, projected in (("consistency fit", False), ("projected fit", True)):
        one = made.pop(name)
        assert one.fitted
        assert one.projected == projected
    assert len({one.similarity for one in made.values()}) == len(made) == 17
    assert "consistency scaled 0.05" not in made
    assert made["consistency unit 0.2 self"].similarity == PatchSimilarity(0.2, "unit", True)
    usual = RatingSettings(rows="unit", temperature=0.2, include_self=True)
    assert "consistency unit 0.2 self" not in similarities(usual, class_token=False)
    own = RatingSettings(temperature=0.3)  # none of those tried
    assert len(similarities(own, class_token=False)) == 18 + 2


def test_the_class_token_is_tried_where_the_teacher_has_one():
    made = similarities(RatingSettings(), class_token=True)
    one = made["consistency class token"]
    assert isinstance(one, Consistency)
    assert one.class_token
    assert one.similarity == PatchSimilarity()
    other = similarities(RatingSettings(class_token=True), class_token=True)
    assert not other["consistency patches"].class_token
    assert other["consistency raw 1"].class_token


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"mask 0", "mask 0.5", "mask 0.75", "4 masks"}),
        ({"mask_ratio": 0.75}, {"mask 0", "mask 0.5", "mask 0.9", "4 masks"}),
        ({"mask_ratio": 0}, {"mask 0.5", "mask 0.75", "mask 0.9"}),
        ({"num_masks": 4}, {"mask 0", "mask 0.5", "mask 0.75"}),
    ],
)
def test_other_masks_are_tried(changes, names):
    settings = ValidateSettings(num_images=7, **changes)
    made = other_masks(settings, MICRO.largest.num_patches)
    assert set(made) == names
    for name, changed in made.items():
        assert changed.num_images == 7
        assert changed.num_masks == (
            1 if name == "mask 0" else 4 if name == "4 masks" else settings.num_masks
        )
    assert made["mask 0.5"].mask_ratio == 0.5


def test_masks_that_leave_fewer_than_three_patches_are_left_out():
    space = MICRO.replace(image_size=(16, 16))  # 16 patches, of which 0.9 leave one
    made = other_masks(ValidateSettings(mask_ratio=0.5), space.largest.num_patches)
    assert set(made) == {"mask 0", "mask 0.75", "4 masks"}
