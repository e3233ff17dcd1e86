"""Typed reader of the manifest of `teacher/`. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from masktas.stages.common.manifest import StageManifest


@dataclass(frozen=True, slots=True)
class PretrainedSource:
    """A pretrained teacher, as the manifest of `teacher/` records it.

    Attributes:
        kind: `vit`, `timm` or `function`.
        source: what the user named.
        licence: of its weights.
        depth: number of blocks; None for a function.
        layer: the block whose tokens are the targets; None for the last one.
        decoder: whether it has one.
    """

    kind: str
    source: str
    licence: str
    embed_dim: int
    depth: int | None
    layer: int | None
    image_size: tuple[int, int]
    patch_size: int
    decoder: bool
    weights_sha256: str

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Read the `adopted` of a manifest."""
        known = {key: content[key] for key in cls.__slots__ if key in content}
        return cls(**{"depth": None} | known | {"image_size": tuple(content["image_size"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherManifest(StageManifest):
    """The manifest of `teacher/`.

    Attributes:
        pretrained: the teacher that was taken instead of training one; None if it was trained.
        source: the released weights that it is or began with; empty if it began at random.
        licence: of these weights; None if there are none.
    """

    pretrained: PretrainedSource | None
    source: str
    licence: str | None

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        adopted = content.get("adopted")
        pretrained = None if adopted is None else PretrainedSource.of(adopted)
        return {
            "pretrained": pretrained,
            "source": content.get("init", "") if pretrained is None else pretrained.source,
            "licence": content.get("licence") if pretrained is None else pretrained.licence,
        }
