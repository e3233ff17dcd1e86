"""Manifests are read into types, written back unchanged, and refused where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manifests import search_content
from masktas.artifacts import Stage
from masktas.errors import ArtifactError
from masktas.space import Budget
from masktas.stages.common.manifest import SearchManifest, SearchResult


def write(folder: Path, content: dict[str, Any]) -> Stage:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(content))
    return Stage("search", folder)


def test_a_search_result_is_written_as_it_was_read() -> None:
    content = search_content()
    winner = content["winner"]
    architecture = winner.pop("architecture")
    winner |= {"measured_latency": 4.5, "measured_latency_range": [4.25, 5]}
    winner["architecture"] = architecture
    written = SearchResult.of(content).to_dict()
    assert json.dumps(written) == json.dumps({key: content[key] for key in written})
    assert set(written) == {
        "winner", "top", "front", "house", "uniform", "best_uniform", "random", "random_search",
        "ahead",
    }  # fmt: skip


def test_a_search_manifest_has_types(tmp_path: Path) -> None:
    read = SearchManifest.read(write(tmp_path, search_content()))
    assert read.budget == Budget(max_params=200_000)
    assert read.result.winner == read.result.top[0]
    assert read.result.winner.costs["params"] == read.result.winner.amount("params")
    assert read.result.winner.amount("measured_latency") is None
    assert read.cost.seconds == 200
    assert read.images.splits["test"].images == 10
    assert (read.rating, read.objectives, read.reused) == ("consistency", ("params",), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"top": [{"rating": 1}]},
        {"top": None},
        {"winner": 3, "front": [3]},
        {"budget": {"max_beauty": 1}},
        {"budget": {"max_params": -1}},
        {"cost": {}},
        {"ahead": {"uniform": {"difference": 1}}},
        {"uniform": {"rating": 1, "error": 0, "images": 1, "architecture": {"embed_dim": "x"}}},
    ],
)
def test_a_damaged_manifest_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    stage = write(tmp_path, search_content() | change)
    with pytest.raises(ArtifactError, match=r"manifest\.json: damaged \(.*--overwrite"):
        SearchManifest.read(stage)
