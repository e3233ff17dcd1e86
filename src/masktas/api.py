"""The stages as Python calls them: settings are flat keywords with the names of the flags.

`masktas.teacher("photos/", out="runs/a", epochs=100, seed=1)` is the same as giving
`settings=TeacherSettings(epochs=100)` and `runtime=RuntimeSettings(seed=1)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from masktas.config import (
    AdoptedTeacher,
    AllSettings,
    CostSettings,
    DataSettings,
    DistillSettings,
    EvaluateSettings,
    FinetuneSettings,
    RefineSettings,
    RuntimeSettings,
    SearchSettings,
    SegmentSettings,
    Settings,
    SupernetSettings,
    TeacherSettings,
    UsedBudgetSettings,
    ValidateSettings,
    resolve,
)
from masktas.errors import ConfigError
from masktas.stages import demo as demo_stage
from masktas.stages import finetune as finetune_stage
from masktas.stages import run as run_stage
from masktas.stages.distill import stage as distill_stage
from masktas.stages.evaluate import stage as evaluate_stage
from masktas.stages.plan import stage as plan_stage
from masktas.stages.refine import stage as refine_stage
from masktas.stages.search import stage as search_stage
from masktas.stages.segment import stage as segment_stage
from masktas.stages.supernet import stage as supernet_stage
from masktas.stages.teacher import stage as teacher_stage
from masktas.stages.transfer import stage as transfer_stage
from masktas.stages.validate import stage as validate_stage

R = TypeVar("R")
# The sections of AllSettings that a keyword of a whole run sets.
WHOLE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(DataSettings.model_fields, ("data",)),
    **dict.fromkeys(RuntimeSettings.model_fields, ("runtime",)),
    **dict.fromkeys(AdoptedTeacher.model_fields, ("supernet",)),
    **dict.fromkeys((*CostSettings.model_fields, *UsedBudgetSettings.model_fields), ("search",)),
    "epochs": ("teacher", "supernet", "finetune"),
    "batch_size": ("teacher", "supernet", "refine", "finetune"),
    "space": ("supernet",),
    "supervised": ("supernet",),
}


def flat(stage: Callable[..., R], **kinds: type[Settings]) -> Callable[..., R]:
    """Let a stage take its settings as flat keywords as well.

    Args:
        stage: the function.
        kinds: by the name of the parameter, the settings that it takes.

    Returns:
        The function. It raises ConfigError for a keyword that is unknown, or given twice.
    """
    own = inspect.signature(stage).parameters
    homes = {name: where for where, kind in kinds.items() for name in _keywords(kind)}

    @wraps(stage)
    def call(*given: Any, **keywords: Any) -> R:
        passed: dict[str, Any] = {}
        flags: dict[str, dict[str, Any]] = {where: {} for where in kinds}
        for name, value in keywords.items():
            # `teacher` and `device` are a setting as a text, and something of Python otherwise
            if name in own and not (name in homes and isinstance(value, str | Path)):
                passed[name] = value
            elif name in homes:
                flags[homes[name]][name] = str(value) if isinstance(value, Path) else value
            else:
                raise ConfigError(_unknown(stage.__name__, name, [*own, *homes]))
        for where, said in flags.items():
            if said:
                passed[where] = _merged(kinds[where], passed.get(where), said, where)
        return stage(*given, **passed)

    call.__signature__ = _signature(stage, homes)  # type: ignore[attr-defined]
    return call


def _keywords(kind: type[Settings]) -> list[str]:
    return list(WHOLE if kind is AllSettings else kind.model_fields)


def _unknown(stage: str, name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}=?" if close else f"help(masktas.{stage}) lists them."
    return f"masktas.{stage} has no keyword {name}=: {hint}"


def _merged(
    kind: type[Settings], settings: Settings | None, said: Mapping[str, Any], where: str
) -> Settings:
    """Lay flat keywords over settings, refusing what both set."""
    if kind is AllSettings:
        return _merged_all(settings, said, where)
    for name in said:
        if settings is not None and name in settings.model_fields_set:
            raise ConfigError(
                f"{name} is given twice, as {name}= and in {where}=: leave one of them out."
            )
    return resolve(kind, settings, dict(said))


def _merged_all(settings: Settings | None, said: Mapping[str, Any], where: str) -> Settings:
    settings = settings or AllSettings()
    flags: dict[str, dict[str, Any]] = {}
    for name, value in said.items():
        for section in WHOLE[name]:
            flags.setdefault(section, {})[name] = value
    merged = {
        section: _merged(type(before), before, of_section, f"{where}.{section}")
        for section, of_section in flags.items()
        for before in [getattr(settings, section)]
    }
    return settings.model_copy(update=merged)


def _signature(stage: Callable[..., Any], homes: Mapping[str, str]) -> inspect.Signature:
    """Return the signature that help and notebooks show, with every flat keyword."""
    signature = inspect.signature(stage)
    own = signature.parameters
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in homes
        if name not in own
    ]
    return signature.replace(parameters=[*own.values(), *more])


run = flat(run_stage.run, settings=AllSettings)
demo = flat(demo_stage.demo, runtime=RuntimeSettings)
transfer = flat(transfer_stage.transfer, settings=AllSettings)
plan = flat(plan_stage.plan, settings=AllSettings)
teacher = flat(
    teacher_stage.teacher,
    settings=TeacherSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
supernet = flat(
    supernet_stage.supernet,
    settings=SupernetSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
search = flat(
    search_stage.search,
    settings=SearchSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
refine = flat(
    refine_stage.refine,
    settings=RefineSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
distill = flat(
    distill_stage.distill,
    settings=DistillSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
finetune = flat(
    finetune_stage.finetune,
    settings=FinetuneSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
segment = flat(
    segment_stage.segment,
    settings=SegmentSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
validate = flat(
    validate_stage.validate,
    settings=ValidateSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
evaluate = flat(
    evaluate_stage.evaluate,
    settings=EvaluateSettings,
    data_settings=DataSettings,
    runtime=RuntimeSettings,
)
