"""Typed reader of the manifest of `segment/NAME/`. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masktas.space import Architecture
from masktas.stages.common.manifest import StageManifest


@dataclass(frozen=True, slots=True)
class PartCosts:
    """Costs of a part of a segmenter.

    Attributes:
        params: number of parameters.
        macs: multiply-accumulates for one crop.
        latency_ms: milliseconds for one crop; None where an earlier version did not measure it.
    """

    params: int
    macs: int
    latency_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentManifest(StageManifest):
    """The manifest of `segment/NAME/`.

    Attributes:
        but_for_seed: all that was asked for but the seed, as a text that can be compared.
        init: weights that the backbone started from: `inherit` or `scratch`.
        patch_size: of the backbone, in pixels.
        decoder_name: `upernet` or `linear`.
        image_size: (height, width) of a crop.
        classes: their names, in the order of the logits.
        miou, pixel_accuracy, class_accuracy: on the test split, as shares.
        validation_miou: of the best epoch.
        best_epoch, epochs: that epoch, and how many there were.
        per_class: `iou`, `accuracy` and `share` of each class in the test split, by its name.
        absent: classes that do not occur there.
        pixel_shares: share of each class in the training pixels.
        backbone, decoder: their costs.
        latency_target: what latency was measured on; None where it was not measured.
    """

    but_for_seed: str
    init: str
    patch_size: int
    decoder_name: str
    image_size: tuple[int, int]
    classes: tuple[str, ...]
    miou: float
    pixel_accuracy: float
    class_accuracy: float
    validation_miou: float
    best_epoch: int
    epochs: int
    per_class: dict[str, dict[str, float]]
    absent: tuple[str, ...]
    pixel_shares: dict[str, float]
    backbone: PartCosts
    decoder: PartCosts
    latency_target: dict[str, Any] | None

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        asked = content["settings"]
        backbone = Architecture.from_dict(asked["architecture"])
        tested, parts = content["test"], {}
        for part in ("backbone", "decoder"):
            one = content[part]
            parts[part] = PartCosts(one["params"], one["macs"], one.get("latency_ms"))
        return {
            "but_for_seed": json.dumps({**asked, "seed": None}, sort_keys=True),
            "init": asked["settings"]["init"],
            "patch_size": backbone.patch_size,
            "decoder_name": asked["settings"]["decoder"],
            "image_size": backbone.image_size,
            "validation_miou": content["validation"]["miou"],
            **{key: tuple(content[key]) for key in ("classes", "absent")},
            **{key: tested[key] for key in ("miou", "pixel_accuracy", "class_accuracy")},
            **{key: content[key] for key in ("best_epoch", "epochs", "per_class", "pixel_shares")},
            **parts,
            "latency_target": content.get("latency_target"),
        }
