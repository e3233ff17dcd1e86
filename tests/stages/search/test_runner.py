"""Ratings of other searches are reused where they are exactly what would be rated."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from masktas.artifacts import SETTINGS
from masktas.config import AllSettings, SearchSettings, load, resolve, validate
from masktas.console import Console
from masktas.files import write_json
from masktas.space import PRESETS, Architecture, SearchSpace
from masktas.stages.common.stage import Context
from masktas.stages.search.results import objectives_for
from masktas.stages.search.runner import known_ratings, name_of, strategy_for
from masktas.strategies import Candidate, Score, journal

ONE, OTHER = PRESETS["micro"].smallest, PRESETS["micro"].largest


def write_search(folder: Path, key: str, rated: dict[Architecture, Score]) -> None:
    write_json(folder / SETTINGS, {"rated_by": key})
    found = [Candidate(one, 0, "random").with_score(score, {}) for one, score in rated.items()]
    journal.write(folder / "history.jsonl", found, 0)


def known(run: Path, key: str, name: str = "this") -> dict[str, tuple[Score, str]]:
    return known_ratings(Context(run, None, Console(quiet=True)), key, run / "search" / name)


def test_complete_scores_of_searches_with_the_same_key_are_known(tmp_path: Path) -> None:
    score = Score(-1.5, 0.1, 20)
    write_search(tmp_path / "search/first", "a key", {ONE: score})
    write_search(tmp_path / "search/second", "another key", {OTHER: Score(-2.0, 0.1, 20)})
    assert known(tmp_path, "a key") == {name_of(ONE): (score, "first")}
    assert known(tmp_path, "a third key") == {}


def test_its_own_scores_and_estimates_are_not_known(tmp_path: Path) -> None:
    estimated = {ONE: Score(-1.5, 0.1, 5, False), OTHER: Score(-2.0, 0.1, 20)}
    write_search(tmp_path / "search/raced", "a key", estimated)
    assert list(known(tmp_path, "a key")) == [name_of(OTHER)]
    assert known(tmp_path, "a key", "raced") == {}


# --- the paper's way

# SHA-256 of what was asked for before there were --min-use, simple shapes and moves of shapes.
ASKED_FOR = {
    ("evolution", "micro"): "e2feb50e8db5a300",
    ("evolution", "demo"): "0987c6cfe88d8ba5",
    ("evolution", "tiny"): "fe04fcebd5d7abff",
    ("nsga2", "micro"): "fc122f1c74a87439",
    ("nsga2", "demo"): "a8523dda59321de0",
    ("nsga2", "tiny"): "60b92464ed613fae",
    ("random", "micro"): "8ff6d9811c4f4fec",
    ("random", "demo"): "2962d10d1612748f",
    ("random", "tiny"): "b387a0b345695f1a",
    ("local", "micro"): "81e0c35f39047461",
    ("local", "demo"): "78098089aa97cf83",
    ("local", "tiny"): "d65cb8f4e917a5d2",
}
BUDGETS: dict[str, dict[str, Any]] = {
    "micro": {"max_params": "900K"},
    "demo": {"max_macs": "6M", "min_params": "100K"},
    "tiny": {},
}


def asked_for(strategy: str, space: str, *, preset: str | None) -> str:
    """Return a digest of what a search asks for, with ratings that depend on the network alone."""
    section = load(Path(preset))["search"] if preset else {}
    sizes: dict[str, Any] = {"strategy": strategy, "generations": 6, "population": 20}
    settings = resolve(SearchSettings, section, sizes | BUDGETS[space])
    candidates = settings.check(SearchSpace.preset(space))
    objectives = objectives_for(None, candidates.budget)
    search, lines = strategy_for(settings, candidates, objectives, 3), []
    while not search.done:
        asked = search.ask()
        search.tell([Score(random.Random(one.architecture.digest()).gauss(0, 1)) for one in asked])
        lines += [f"{one.generation} {one.origin} {one.architecture.digest()}\n" for one in asked]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("strategy", "space"), ASKED_FOR)
def test_the_preset_of_the_paper_draws_as_the_paper_says(strategy: str, space: str) -> None:
    assert asked_for(strategy, space, preset="paper") == ASKED_FOR[strategy, space]


def test_the_defaults_draw_something_else() -> None:
    assert asked_for("evolution", "micro", preset=None) != ASKED_FOR["evolution", "micro"]


def test_the_preset_of_the_paper_switches_every_addition_off() -> None:
    whole = validate(AllSettings, load(Path("paper")))
    search = whole.search
    assert (search.min_use, search.simple_shapes, search.shape_probability) == (0, False, 0)
    assert (search.diversity, search.rating) == (0, "consistency")
    assert whole.supernet.sampler == "uniform"
    assert "sampler" in whole.supernet.model_fields_set  # `run` would choose another one
