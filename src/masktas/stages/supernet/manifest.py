"""Typed reader of the manifest of `supernet/`. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masktas.stages.common.manifest import StageManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetManifest(StageManifest):
    """The manifest of `supernet/`.

    Attributes:
        probe_params: parameters of the networks that were watched in training, by name.
        reconstructions: what the rows of `reconstructions.png` show.
        classes: that it was trained to tell apart; None if it was distilled without labels.
        probe_accuracy: whether labels watched it too.
    """

    probe_params: dict[str, int]
    reconstructions: tuple[str, ...]
    classes: tuple[str, ...] | None
    probe_accuracy: bool

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "probe_params": {name: one["params"] for name, one in content["probes"].items()},
            "reconstructions": tuple(content["reconstructions"]),
            "classes": None if "classes" not in content else tuple(content["classes"]),
            "probe_accuracy": any(
                content["settings"].get("settings", {}).get(key)
                for key in ("probe_accuracy", "supervised")
            ),
        }
