"""Typed reader of the manifest of `validate/NAME/`. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masktas.stages.common.manifest import StageManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationManifest(StageManifest):
    """The manifest of `validate/NAME/`.

    Attributes:
        rating: the name of the rating that the verdict is about.
        num_networks: networks that were compared.
        verdict: the result in one sentence.
        difference: how much networks differ, in one sentence; None without labels.
        tables: `title`, `header` and `rows` of each.
        probe: how accuracy was measured; None without labels.
        probe_images: labelled images that the probe learns from; None without labels.
        split: the split that accuracy was measured on.
        taus: Kendall's tau with accuracy by rating; empty without labels.
    """

    rating: str
    num_networks: int
    verdict: str
    difference: str | None
    tables: list[dict[str, Any]]
    probe: str | None
    probe_images: int | None
    split: str
    taus: dict[str, float | None]

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        settings, agreement = content["settings"]["settings"], content["agreement"] or {}
        return {
            **{key: settings[key] for key in ("rating", "split")},
            **{key: content[key] for key in ("num_networks", "verdict", "difference", "tables")},
            **{key: content[key] for key in ("probe", "probe_images")},
            "taus": {name: one["tau"]["value"] for name, one in agreement.items()},
        }
