"""The front matter of the model card: what the hub and other programs read.

`model-index` holds results that the run has measured on labelled images, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from masktas.artifacts import Stage
from masktas.formats import shown
from masktas.space import format_quantity, params
from masktas.stages.common.manifest import FinetuneManifest
from masktas.stages.evaluate.manifest import SUMMARY, EvaluationManifest
from masktas.stages.evaluate.where import Home
from masktas.stages.export.form import PIXELS, Subject
from masktas.stages.segment.manifest import SegmentManifest

FOLDER = "imagefolder"  # the hub's word for images of one's own
# Results by their names in manifests: the hub's name of the metric, and what people read.
METRICS = {
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("top_5_accuracy", "Top-5 accuracy"),
    "mean_per_class": ("balanced_accuracy", "Mean accuracy of the classes"),
    "calibration_error": ("expected_calibration_error", "Calibration error"),
    "linear_top1": ("accuracy", "Top-1 accuracy of a linear probe"),
    "knn_top1": ("accuracy", "Top-1 accuracy of nearest neighbours"),
    "miou": ("mean_iou", "Mean IoU of the classes"),
    "pixel_accuracy": ("pixel_accuracy", "Accuracy of pixels"),
    "class_accuracy": ("mean_accuracy", "Mean accuracy of the classes, of pixels"),
}
TASKS = {  # of the hub, by what a network computes
    "logits": "image-classification",
    "features": "image-feature-extraction",
    PIXELS: "image-segmentation",
}


def front_matter(subject: Subject, home: Home | None, forms: Sequence[str]) -> str:
    """Return the front matter, in YAML between two lines of dashes.

    Args:
        subject: the network.
        home: its run and stage; None if it lies in no run.
        forms: names of those that were written: timm opens one of them only.
    """
    is_timm = "timm" in forms
    results = [] if home is None else results_of(home, TASKS[subject.outputs])
    datasets = sorted({one.dataset_type for one in results} - {FOLDER})
    data = ModelCardData(
        library_name="timm" if is_timm else "pytorch",
        pipeline_tag=TASKS[subject.outputs],
        tags=["masktas", *(["timm"] if is_timm else []), "vision-transformer"],
        datasets=datasets or None,
        metrics=sorted({one.metric_type for one in results}) or None,
        model_name=f"masktas-{format_quantity(params(subject.architecture))}",
        eval_results=results or None,
    )
    if not results:
        data.model_name = None  # it is part of the results only
    return f"---\n{data.to_yaml()}\n---\n"


def results_of(home: Home, task: str) -> list[EvalResult]:
    """Return what was measured of a network on labelled images, each number once.

    Args:
        home: run and stage of the network.
        task: of the hub; features are measured by classifying them.
    """
    task = "image-classification" if task == TASKS["features"] else task
    found: dict[tuple[str, str, str], EvalResult] = {}
    for location, split, numbers in _measured(home):
        name, kind = dataset_of(location)
        for key, value in numbers.items():
            metric, title = METRICS[key]
            result = EvalResult(
                task_type=task,
                dataset_type=kind,
                dataset_name=name,
                dataset_split=split,
                metric_type=metric,
                metric_name=title,
                metric_value=round(value, 6),
            )
            found.setdefault((location, split, key), result)
    return list(found.values())


def _measured(home: Home) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield location and split of images, and the numbers measured on them."""
    if home.stage.name == "finetune" and not home.below:
        tuned = FinetuneManifest.read(home.stage)
        yield tuned.location, "test", {"top1": tuned.top1, "top5": tuned.top5}
    if home.stage.name == "segment":
        made = SegmentManifest.read(home.stage)
        yield made.location, "test", {name: getattr(made, name) for name in SUMMARY["segmenter"]}
    for found in evaluations_of(home):
        yield found.location, found.split, found.summary


def evaluations_of(home: Home) -> Iterator[EvaluationManifest]:
    """Yield the evaluations of a network in its run."""
    where = str(home.folder.relative_to(home.run.folder))
    stages: list[Stage] = home.run.named("evaluate")
    for found in map(EvaluationManifest.read, stages):
        if found.network == where:
            yield found


def dataset_of(location: Any) -> tuple[str, str]:
    """Return the name of a data set, without the folders that lead to it, and its type for the hub.

    The hub refuses cards with local paths.
    """
    on_hub = re.match(r"hf:([\w.-]+/[\w.-]+)", str(location))
    name = shown(on_hub[1] if on_hub else Path(str(location)).name)
    return name or "images", on_hub[1] if on_hub else FOLDER
