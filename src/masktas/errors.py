"""What can go wrong through no fault of ours: messages say what, where, and how to mend it."""

from __future__ import annotations


class MasktasError(Exception):
    """Something the user can mend. The command line prints it as one sentence and exits with 2."""


class ConfigError(MasktasError):
    """A setting that is unknown, of the wrong type or outside its range."""


class SpaceError(MasktasError):
    """A search space or an architecture that is malformed or does not fit where it is used."""


class BudgetError(SpaceError):
    """A budget that cannot be read, or that no architecture of the space meets."""


class LatencyError(MasktasError):
    """A latency that could not be measured: a command that fails, a time that is no number."""


class DataError(MasktasError):
    """Images that are not there, cannot be read, or are too few."""


class LabelError(DataError):
    """Images without the labels that fine-tuning needs."""


class ArtifactError(MasktasError):
    """A run folder, checkpoint or manifest that is missing, damaged or of something else."""


class DamagedError(ArtifactError):
    """A file whose form or checksum is wrong, so that reading it again cannot help."""


class Stopped(MasktasError):
    """Stopped before the end because it was asked to; the same command goes on.

    Attributes:
        exit_code: what the process exits with.
    """

    def __init__(self, text: str, *, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class LostProcess(Stopped):
    """Another process of the same job has ended."""


class ReportedByRank0(MasktasError):
    """What another process of the same job has already told the user."""
