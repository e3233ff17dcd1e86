"""masktas: images without labels and a budget in, the Vision Transformer that fits both out.

Importing this loads neither torch nor anything else that is slow: names are fetched when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masktas.config import (
        AllSettings,
        DataSettings,
        FinetuneSettings,
        RuntimeSettings,
        SearchSettings,
        SupernetSettings,
        TeacherSettings,
        ValidateSettings,
    )
    from masktas.errors import MasktasError
    from masktas.measure.target import Target as LatencyTarget
    from masktas.space import Architecture, Budget, SearchSpace, macs, params
    from masktas.stages.finetune import finetune
    from masktas.stages.latency import build_latency, measure_latency
    from masktas.stages.plan import plan
    from masktas.stages.report.stage import report
    from masktas.stages.run import demo, run
    from masktas.stages.search.stage import search
    from masktas.stages.supernet.stage import supernet
    from masktas.stages.teacher.stage import teacher
    from masktas.stages.validate.stage import validate
    from masktas.train.networks import load_network as load

_HOMES = {
    "AllSettings": "masktas.config",
    "Architecture": "masktas.space",
    "Budget": "masktas.space",
    "DataSettings": "masktas.config",
    "FinetuneSettings": "masktas.config",
    "LatencyTarget": "masktas.measure.target:Target",
    "MasktasError": "masktas.errors",
    "RuntimeSettings": "masktas.config",
    "SearchSettings": "masktas.config",
    "SearchSpace": "masktas.space",
    "SupernetSettings": "masktas.config",
    "TeacherSettings": "masktas.config",
    "ValidateSettings": "masktas.config",
    "build_latency": "masktas.stages.latency",
    "demo": "masktas.stages.run",
    "finetune": "masktas.stages.finetune",
    "load": "masktas.train.networks:load_network",
    "macs": "masktas.space",
    "measure_latency": "masktas.stages.latency",
    "params": "masktas.space",
    "plan": "masktas.stages.plan",
    "report": "masktas.stages.report.stage",
    "run": "masktas.stages.run",
    "search": "masktas.stages.search.stage",
    "supernet": "masktas.stages.supernet.stage",
    "teacher": "masktas.stages.teacher.stage",
    "validate": "masktas.stages.validate.stage",
}

__all__ = [
    "AllSettings",
    "Architecture",
    "Budget",
    "DataSettings",
    "FinetuneSettings",
    "LatencyTarget",
    "MasktasError",
    "RuntimeSettings",
    "SearchSettings",
    "SearchSpace",
    "SupernetSettings",
    "TeacherSettings",
    "ValidateSettings",
    "build_latency",
    "demo",
    "finetune",
    "load",
    "macs",
    "measure_latency",
    "params",
    "plan",
    "report",
    "run",
    "search",
    "supernet",
    "teacher",
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
