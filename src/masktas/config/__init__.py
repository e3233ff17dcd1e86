"""Typed settings, one set for each stage. No torch here."""

from masktas.config.distilling import (
    AdoptedTeacher,
    DistillSettings,
    MaskedSettings,
    RefineSettings,
    SharingSettings,
    SupernetSettings,
    TeacherSettings,
)
from masktas.config.fields import FIT, Settings
from masktas.config.finetuning import FinetuneSettings
from masktas.config.load import load, resolve, validate
from masktas.config.masking import MaskRatioSettings
from masktas.config.searching import (
    BudgetSettings,
    CostSettings,
    LatencySettings,
    RatingSettings,
    SearchSettings,
    StrategySettings,
    UsedBudgetSettings,
)
from masktas.config.segmenting import SegmentSettings
from masktas.config.settings import (
    AllSettings,
    DataSettings,
    EvaluateSettings,
    RuntimeSettings,
)
from masktas.config.training import EpochSettings, StepSettings, TrainSettings
from masktas.config.validating import ComparisonSettings, ValidateSettings

__all__ = [
    "FIT",
    "AdoptedTeacher",
    "AllSettings",
    "BudgetSettings",
    "ComparisonSettings",
    "CostSettings",
    "DataSettings",
    "DistillSettings",
    "EpochSettings",
    "EvaluateSettings",
    "FinetuneSettings",
    "LatencySettings",
    "MaskRatioSettings",
    "MaskedSettings",
    "RatingSettings",
    "RefineSettings",
    "RuntimeSettings",
    "SearchSettings",
    "SegmentSettings",
    "Settings",
    "SharingSettings",
    "StepSettings",
    "StrategySettings",
    "SupernetSettings",
    "TeacherSettings",
    "TrainSettings",
    "UsedBudgetSettings",
    "ValidateSettings",
    "load",
    "resolve",
    "validate",
]
