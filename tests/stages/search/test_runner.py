"""Ratings of other searches are reused where they are exactly what would be rated."""

from __future__ import annotations

from pathlib import Path

from masktas.artifacts import SETTINGS, write_json
from masktas.console import Console
from masktas.space import PRESETS, Architecture
from masktas.stages.common.stage import Context
from masktas.stages.search.runner import known_ratings, name_of
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
