"""Manifests as stages write them, of networks of the demo's space."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masktas.artifacts import NAMED
from masktas.space import SearchSpace, macs, params

SPLITS = {
    name: {"images": count, "digest": f"{count:016x}"}
    for name, count in (("supernet", 80), ("search", 5), ("validation", 5), ("test", 10))
}


def common_content() -> dict[str, Any]:
    """Return what every manifest has."""
    return {
        "schema": 1,
        "settings": {"images": {"location": "<photos & more>"}, "seed": 3},
        "cost": {
            "seconds": 200.0,
            "images": 1234,
            "name": "cpu",
            "precision": "fp32",
            "flops": 4.2e15,
            "peak_flops": 1.5e14,
            "share_of_peak": 0.14,
            "processes": 2,
            "attempts": 3,
        },
        "images": {"splits": SPLITS, "duplicates": 2, "num_skipped": 0, "skipped": []},
        "versions": {"masktas": "0.1.0"},
        "parents": {},
    }


def rated_networks(count: int) -> list[dict[str, Any]]:
    """Return uniform networks with ratings, the best first."""
    uniforms = list(SearchSpace.preset("demo").uniforms())[:count]
    return [
        {
            "rating": -2.0 - index / 10,
            "error": None,
            "images": 5,
            "params": params(one),
            "macs": macs(one),
            "architecture": one.to_dict(),
        }
        for index, one in enumerate(uniforms)
    ]


def history_lines(rated: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the journal of a search that has rated these networks at random."""
    drawn = {"generation": 0, "origin": "random", "complete": True}
    return [{"index": index, **drawn, **one} for index, one in enumerate(rated)]


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def search_content() -> dict[str, Any]:
    """Return the manifest of a search: the winner, three random networks, the largest uniform."""
    rated, common = rated_networks(6), common_content()
    return common | {
        "settings": common["settings"] | {"settings": {"rating": "consistency"}},
        "winner": rated[0],
        "top": rated[:1],
        "front": [],
        "house": None,
        "uniform": rated[4],
        "best_uniform": None,
        "random": rated[1:4],
        "random_search": None,
        "ahead": {},
        "budget": {"max_params": 200_000},
        "objectives": ["params"],
        "latency_target": None,
        "rated": 6,
        "reused": 0,
        "feasible": 1000,
    }


def finetune_content(network: dict[str, Any], top1: float, init: str = "inherit") -> dict[str, Any]:
    """Return the manifest of a fine-tuning of a network."""
    common = common_content()
    settings = {"architecture": network["architecture"], "settings": {"init": init}}
    return common | {
        "settings": common["settings"] | settings,
        "test": {"top1": top1, "top5": 0.99},
        "params": 1,
        "macs": 1,
    }


def begin_stage(folder: Path, settings: dict[str, Any]) -> None:
    """Write what a stage writes when it begins."""
    folder.mkdir(parents=True)
    claim = common_content()["settings"] | {"settings": settings}
    (folder / "settings.json").write_text(json.dumps(claim))


def write_stage(
    folder: Path, content: dict[str, Any], log: Sequence[dict[str, Any]] | None = None
) -> None:
    """Write the manifest of a finished stage over the common one, and its metrics if any."""
    folder.mkdir(parents=True)
    common = common_content()
    stage = folder.parent.name if folder.parent.name in NAMED else folder.name
    merged = {"stage": stage} | common | content
    merged["settings"] = common["settings"] | content.get("settings", {})
    (folder / "manifest.json").write_text(json.dumps(merged))
    if log is not None:
        write_lines(folder / "metrics.jsonl", log)
