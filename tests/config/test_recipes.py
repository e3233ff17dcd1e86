"""Recipes of fine-tuning: which one is chosen and why, and that they lie below all that is set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from masktas.config import FinetuneSettings, resolve
from masktas.config.recipes import LARGE_PARAMS, RECIPES, with_recipe
from masktas.errors import ConfigError

DEFAULTS = FinetuneSettings().model_dump()
DOCUMENT = Path(__file__).parents[2] / "docs/finetune.md"


def test_auto_goes_by_size_at_the_boundary_and_says_so() -> None:
    small, why = with_recipe(FinetuneSettings(), LARGE_PARAMS - 1)
    assert (small.recipe, small.layer_decay, small.mixup) == ("small", 0.85, 0.2)
    assert why == (
        "Recipe small (MAE-Lite, for ViT-Tiny): 25M parameters without the head are fewer than "
        "25M; 100 epochs in batches of 256 (published: 300 of 1024)."
    )
    large, why = with_recipe(FinetuneSettings(), LARGE_PARAMS)
    assert (large.recipe, large.layer_decay, large.cutmix) == ("large", 0.65, 1)
    assert "25M parameters without the head are at least 25M" in why
    assert "2.7M parameters" in with_recipe(FinetuneSettings(), 2_700_000)[1]


def test_a_short_training_is_plain() -> None:
    for size, least in ((1, 100), (LARGE_PARAMS, 34)):  # a third of 300 and of 100
        assert with_recipe(FinetuneSettings(epochs=least), size)[0].recipe != "plain"
        short, why = with_recipe(FinetuneSettings(epochs=least - 1), size)
        assert (short.recipe, short.randaugment, short.layer_decay) == ("plain", "none", 1)
        assert "less than a third of the" in why
    assert with_recipe(FinetuneSettings(epochs=1), 1)[1] == (
        "Recipe plain (masktas): 1 epoch, less than a third of the 300 of recipe small; "
        "1 epoch in batches of 256."
    )
    assert with_recipe(FinetuneSettings(epochs=1, recipe="small"), 1)[0].recipe == "small"


def test_auto_leaves_length_batch_and_crops_to_images_and_machine() -> None:
    auto, _ = with_recipe(FinetuneSettings(), 1)
    named, why = with_recipe(FinetuneSettings(recipe="small"), LARGE_PARAMS)
    assert (auto.epochs, auto.batch_size, auto.crop_scale) == (100, 256, (0.35, 1))
    assert (named.epochs, named.batch_size, named.crop_scale) == (300, 1024, (0.08, 1))
    assert why.endswith("Tiny); 300 epochs in batches of 1024.")
    left = {"epochs", "batch_size", "crop_scale", "warmup_share"}
    assert auto.model_dump(exclude=left) == named.model_dump(exclude=left)


def test_plain_is_what_the_settings_say() -> None:
    plain, _ = with_recipe(FinetuneSettings(recipe="plain", epochs=3), 1)
    assert plain.model_dump() == DEFAULTS | {"recipe": "plain", "epochs": 3}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_lies_below_the_file_and_the_file_below_the_flags(name: str) -> None:
    file = {"recipe": name, "mixup": 0.4, "drop_path": DEFAULTS["drop_path"], "epochs": 7}
    settings = resolve(FinetuneSettings, file, FinetuneSettings(epochs=9))
    resolved, _ = with_recipe(settings, 1)
    recipe = RECIPES[name]
    wanted = DEFAULTS | dict(recipe.values) | file | {"epochs": 9}
    if recipe.warmup_epochs is not None:
        wanted["warmup_share"] = 0.2  # the published epochs of warm-up would be most of nine
    assert resolved.model_dump() == wanted
    assert resolved.model_fields_set == set(FinetuneSettings.model_fields)


@pytest.mark.parametrize("name", ["auto", *RECIPES])
def test_resolved_settings_stay_what_they_are_for_networks_of_any_size(name: str) -> None:
    resolved, _ = with_recipe(FinetuneSettings(recipe=name, lr=0.5), 1)
    assert with_recipe(resolved, 10 * LARGE_PARAMS)[0] == resolved


def test_warm_up_has_the_published_epochs_unless_it_is_set() -> None:
    assert with_recipe(FinetuneSettings(recipe="small"), 1)[0].warmup_share == 5 / 300
    assert with_recipe(FinetuneSettings(recipe="transfer"), 1)[0].warmup_share == 0.2
    longer = FinetuneSettings(recipe="transfer", epochs=100)
    assert with_recipe(longer, 1)[0].warmup_share == 0.1
    said = FinetuneSettings(recipe="small", warmup_share=0.3)
    assert with_recipe(said, 1)[0].warmup_share == 0.3


def test_a_smallest_rate_above_the_largest_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"min_lr is 0.01, above the peak.*smaller --min-lr"):
        with_recipe(FinetuneSettings(min_lr=0.01, batch_size=128), 1)


def test_images_that_randaugment_does_not_know_have_none() -> None:
    for name in ("auto", "small"):
        settings, why = with_recipe(FinetuneSettings(recipe=name), 1, 4)
        assert (settings.randaugment, settings.mixup) == ("none", 0.2)
        assert "without its RandAugment for images of 4 channels; " in why
        assert with_recipe(settings, 1, 4)[0] == settings
    assert with_recipe(FinetuneSettings(), 1, 1)[0].randaugment == "rand-m10-mstd0.5-inc1"
    said = FinetuneSettings(randaugment="rand-m9-mstd0.5-inc1")
    with pytest.raises(ConfigError, match=r"1 or 3 channels, and these have 4: give --randaugment"):
        with_recipe(said, 1, 4)


def test_unknown_names_and_values_are_refused() -> None:
    for name in ("medium", "AUTO", ""):
        with pytest.raises(ConfigError, match="recipe is"):
            resolve(FinetuneSettings, {"recipe": name})
    for key, value in (("layer_decay", 0), ("ema", 1), ("optimizer", "lars"), ("patience", -1)):
        with pytest.raises(ConfigError, match=key):
            resolve(FinetuneSettings, {key: value})


def rows() -> dict[str, dict[str, str]]:
    """Read the table of docs/finetune.md: setting, recipe, value."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    start = next(at for at, line in enumerate(cells) if line[0] == "setting")
    names = [re.sub(r"`", "", name) for name in cells[start][1:]]
    table: dict[str, dict[str, str]] = {name: {} for name in names}
    for line in cells[start + 1 :]:
        if re.fullmatch(r"`[a-z0-9_]+`", line[0]):
            for name, value in zip(names, line[1:], strict=True):
                table[name][line[0].strip("`")] = value
    return table


def written(value: object) -> str:
    """Write a value as the table does."""
    if isinstance(value, tuple):
        return " to ".join(map(written, value))
    if value is None or value is False:
        return "no"
    return "yes" if value is True else f"{value:.4g}" if isinstance(value, float) else str(value)


def test_the_documents_table_is_the_one_of_the_code() -> None:
    table = rows()
    assert set(table) == set(RECIPES)
    for name, values in table.items():
        resolved, _ = with_recipe(FinetuneSettings(recipe=name), 1)
        content = resolved.model_dump()
        assert values == {key: written(content[key]) for key in values}, name
        told = {key for recipe in RECIPES.values() for key in recipe.values} | {"warmup_share"}
        assert set(values) == told
