"""masktas: images without labels and a budget in, the Vision Transformer that fits both out.

Importing this does not load torch: names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masktas.api import (
        demo,
        distill,
        evaluate,
        finetune,
        plan,
        refine,
        run,
        search,
        segment,
        supernet,
        teacher,
        transfer,
        validate,
    )
    from masktas.config import (
        AllSettings,
        DataSettings,
        DistillSettings,
        EvaluateSettings,
        FinetuneSettings,
        RefineSettings,
        RuntimeSettings,
        SearchSettings,
        SegmentSettings,
        SupernetSettings,
        TeacherSettings,
        ValidateSettings,
    )
    from masktas.errors import MasktasError
    from masktas.measure.target import Target as LatencyTarget
    from masktas.notebook import load_supernet, open_images, open_teacher, rate
    from masktas.predictor import load
    from masktas.space import Architecture, Budget, SearchSpace, macs, params
    from masktas.stages.export.push import push
    from masktas.stages.export.stage import export
    from masktas.stages.latency import build_latency, measure_latency
    from masktas.stages.report.stage import report

_HOMES = {
    "AllSettings": "masktas.config",
    "Architecture": "masktas.space",
    "Budget": "masktas.space",
    "DataSettings": "masktas.config",
    "DistillSettings": "masktas.config",
    "EvaluateSettings": "masktas.config",
    "FinetuneSettings": "masktas.config",
    "LatencyTarget": "masktas.measure.target:Target",
    "MasktasError": "masktas.errors",
    "RefineSettings": "masktas.config",
    "RuntimeSettings": "masktas.config",
    "SearchSettings": "masktas.config",
    "SearchSpace": "masktas.space",
    "SegmentSettings": "masktas.config",
    "SupernetSettings": "masktas.config",
    "TeacherSettings": "masktas.config",
    "ValidateSettings": "masktas.config",
    "build_latency": "masktas.stages.latency",
    "demo": "masktas.api",
    "distill": "masktas.api",
    "evaluate": "masktas.api",
    "export": "masktas.stages.export.stage",
    "finetune": "masktas.api",
    "load": "masktas.predictor",
    "load_supernet": "masktas.notebook",
    "macs": "masktas.space",
    "measure_latency": "masktas.stages.latency",
    "open_images": "masktas.notebook",
    "open_teacher": "masktas.notebook",
    "params": "masktas.space",
    "plan": "masktas.api",
    "push": "masktas.stages.export.push",
    "rate": "masktas.notebook",
    "refine": "masktas.api",
    "report": "masktas.stages.report.stage",
    "run": "masktas.api",
    "search": "masktas.api",
    "segment": "masktas.api",
    "supernet": "masktas.api",
    "teacher": "masktas.api",
    "transfer": "masktas.api",
    "validate": "masktas.api",
}

__all__ = [
    "AllSettings",
    "Architecture",
    "Budget",
    "DataSettings",
    "DistillSettings",
    "EvaluateSettings",
    "FinetuneSettings",
    "LatencyTarget",
    "MasktasError",
    "RefineSettings",
    "RuntimeSettings",
    "SearchSettings",
    "SearchSpace",
    "SegmentSettings",
    "SupernetSettings",
    "TeacherSettings",
    "ValidateSettings",
    "build_latency",
    "demo",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "load",
    "load_supernet",
    "macs",
    "measure_latency",
    "open_images",
    "open_teacher",
    "params",
    "plan",
    "push",
    "rate",
    "refine",
    "report",
    "run",
    "search",
    "segment",
    "supernet",
    "teacher",
    "transfer",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("masktas")
    if name not in _HOMES:
        raise AttributeError(f"module 'masktas' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
