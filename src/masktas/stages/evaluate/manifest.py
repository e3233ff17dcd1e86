"""Typed reader of the manifest of `evaluate/NAME/`. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from masktas.stages.common.manifest import StageManifest

EVALUATION = "evaluation.json"
Kind = Literal["classifier", "segmenter", "probe"]
SUMMARY: dict[Kind, tuple[str, ...]] = {  # the most important numbers of an outcome
    "classifier": ("top1", "top5", "mean_per_class", "calibration_error"),
    "segmenter": ("miou", "pixel_accuracy", "class_accuracy"),
    "probe": (),
}
KEYS: dict[Kind, set[str]] = {  # of the outcome
    "classifier": {"num_images", *SUMMARY["classifier"]},
    "segmenter": {"num_images", "absent", "unknown_share", *SUMMARY["segmenter"]},
    "probe": {"num_images", "num_learnt", "linear", "knn", "caveat"},
}


def kind_of(outcome: Mapping[str, Any]) -> Kind:
    """Return what was evaluated: a network with classes, a segmenter, or frozen features."""
    if "knn" in outcome:
        return "probe"
    return "segmenter" if "miou" in outcome else "classifier"


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
    def kind(self) -> Kind:
        """What was evaluated."""
        return kind_of(self.outcome)

    @property
    def summary(self) -> dict[str, float]:
        """The most important numbers."""
        if self.kind == "probe":
            return {f"{key}_top1": self.outcome[key]["top1"] for key in ("linear", "knn")}
        return {key: self.outcome[key] for key in SUMMARY[self.kind]}

    @classmethod
    def _results(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        outcome = content["outcome"]
        if missing := KEYS[kind_of(outcome)] - outcome.keys():
            raise KeyError(min(missing))
        return {key: content[key] for key in ("network", "split", "readings", "outcome")}
