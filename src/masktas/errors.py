"""Errors that a user can mend: their messages say what is wrong, where, and how to mend it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MasktasError(Exception):
    """An error that the user can mend; the command line prints its sentence and exits with 2."""


class ConfigError(MasktasError):
    """A setting that is unknown, of the wrong type or outside its range."""


class SpaceError(MasktasError):
    """A search space or an architecture that is malformed or does not fit where it is used."""


class BudgetError(SpaceError):
    """A budget that cannot be read, or that no architecture of the space meets."""


class LatencyError(MasktasError):
    """A latency that could not be measured: a command that fails, or a time that is no number."""


class DataError(MasktasError):
    """Images that are missing, cannot be read, or are too few."""


class UndecodableImage(DataError):
    """An image that cannot be decoded, with `--strict`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}. Without --strict it is skipped.")


class LabelError(DataError):
    """Images without the labels that fine-tuning needs."""


class ArtifactError(MasktasError):
    """A run folder, checkpoint or manifest that is missing, damaged or belongs to another thing."""


class DamagedError(ArtifactError):
    """A file whose form or checksum is wrong, so that reading it again cannot help."""


class Stopped(MasktasError):
    """A stage stopped early because a signal or time limit asked it to; the same command resumes.

    Attributes:
        exit_code: the exit status of the process.
    """

    def __init__(self, text: str, *, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class LostProcess(Stopped):
    """Another process of the same job has ended."""


class ReportedByRank0(MasktasError):
    """An error that the first process of the same job has already reported."""


def require_extra(package: str, extra: str, what: str) -> ModuleType:
    """Import a package that is not part of the smallest installation.

    Args:
        package: the module to import, such as `matplotlib.figure`.
        extra: the extra of masktas that installs it.
        what: what needs it, as the subject of a sentence.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition(".")[0]
        raise ConfigError(
            f"{what} needs the package {missing}, which is not installed: "
            f'`pip install "masktas[{extra}]"`.'
        ) from None
