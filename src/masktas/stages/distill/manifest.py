"""Typed reader of the manifest of `distill/NAME/`. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masktas.space import Architecture
from masktas.stages.common.manifest import StageManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillManifest(StageManifest):
    """The manifest of `distill/NAME/`.

    Attributes:
        architecture: of the network that was trained alone.
        params, macs: its costs.
        equal: to what its length is equal, `images` or `operations`; None if it was set as epochs.
        equal_to: the folders of the stages that spent these.
    """

    architecture: Architecture
    params: int
    macs: int
    equal: str | None
    equal_to: tuple[str, ...]

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        equal = content["equal"]
        return {
            "architecture": Architecture.from_dict(content["settings"]["architecture"]),
            **{key: content[key] for key in ("params", "macs")},
            "equal": None if equal is None else equal["what"],
            "equal_to": () if equal is None else tuple(equal["of"]),
        }
