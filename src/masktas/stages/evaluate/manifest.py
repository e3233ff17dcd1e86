"""Typed reader of the manifest of `evaluate/NAME/`. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masktas.stages.common.manifest import StageManifest

EVALUATION = "evaluation.json"
KEYS = {  # of the outcome of a network with classes, and of one without
    True: {"num_images", "top1", "top5", "mean_per_class", "calibration_error"},
    False: {"num_images", "num_learnt", "linear", "knn", "caveat"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationManifest(StageManifest):
    """The manifest of `evaluate/NAME/`.

    Attributes:
        network: folder of the network, within the run if it lies in one.
        split: the split that it was evaluated on; `all` of images that no run has divided.
        readings: how often the test split had been read for this network, with this evaluation;
            None for other images.
        outcome: what was measured, without what is measured for each class.
    """

    network: str
    split: str
    readings: int | None
    outcome: dict[str, Any]

    @property
    def is_classifier(self) -> bool:
        """Whether the network has classes; otherwise its features were probed."""
        return "knn" not in self.outcome

    @property
    def summary(self) -> dict[str, float]:
        """The most important numbers."""
        if self.is_classifier:
            keys = ("top1", "top5", "mean_per_class", "calibration_error")
            return {key: self.outcome[key] for key in keys}
        return {f"{key}_top1": self.outcome[key]["top1"] for key in ("linear", "knn")}

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        outcome = content["outcome"]
        if missing := KEYS["knn" not in outcome] - outcome.keys():
            raise KeyError(min(missing))
        return {key: content[key] for key in ("network", "split", "readings", "outcome")}
