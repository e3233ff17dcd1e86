"""The files in recipes/: they load, their budgets can be met, their heads say what to expect."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from masktas.config import AllSettings, load, validate
from masktas.config.recipes import with_recipe
from masktas.space import SearchSpace, params

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(path for path in RECIPES.rglob("*.toml") if path.parent.name != "spaces")
FULL = sorted(set((RECIPES / "paper").glob("*.toml")) - {RECIPES / "paper/cpu.toml"})


def name(path: Path) -> str:
    return str(path.relative_to(RECIPES))


def head(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines[: lines.index("")] if line.startswith("#"))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_recipe_loads_and_its_budget_can_be_met(path: Path) -> None:
    settings = validate(AllSettings, load(path))
    candidates = settings.search.check(SearchSpace.load(settings.supernet.space))
    settings.supernet.check(candidates.space)
    size = params(candidates.costliest(random.Random(0)).replace(num_classes=0))
    with_recipe(settings.finetune, size)
    for word in ("# Command ", "# Hardware "):
        assert word in head(path)


@pytest.mark.parametrize("path", FULL, ids=name)
def test_the_papers_recipes_say_what_was_planned_and_reported(path: Path) -> None:
    for word in ("# Planned ", "# With      masktas plan ", "# Paper ", "# Not said ", "1 GPU",
                 "8 GPUs"):  # fmt: skip
        assert word in head(path), word
