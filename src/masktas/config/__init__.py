"""Typed settings, one set for each stage. No torch here."""

from masktas.config.load import load, resolve, validate
from masktas.config.settings import (
    AdoptedTeacher,
    AllSettings,
    DataSettings,
    FinetuneSettings,
    MaskedSettings,
    RuntimeSettings,
    SearchSettings,
    Settings,
    SupernetSettings,
    TeacherSettings,
    TrainSettings,
)

__all__ = [
    "AdoptedTeacher",
    "AllSettings",
    "DataSettings",
    "FinetuneSettings",
    "MaskedSettings",
    "RuntimeSettings",
    "SearchSettings",
    "Settings",
    "SupernetSettings",
    "TeacherSettings",
    "TrainSettings",
    "load",
    "resolve",
    "validate",
]
