"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from masktas.config import (
    AdoptedTeacher,
    AllSettings,
    DataSettings,
    LatencySettings,
    RuntimeSettings,
    SegmentSettings,
    Settings,
    UsedBudgetSettings,
    load,
    resolve,
    validate,
)

Out = Annotated[Path, Parameter(help="Run folder; it is created if it is missing.")]
Config = Annotated[
    Path | None,
    Parameter(
        help="TOML file with a section for each stage, or a preset: paper or small-data; flags "
        "override it."
    ),
]
Overwrite = Annotated[
    bool,
    Parameter(
        negative="",
        show_default=False,
        help="Start afresh and delete earlier results.",
    ),
]
AcceptChangedImages = Annotated[
    bool,
    Parameter(
        negative="",
        show_default=False,
        group="Images",
        help="Continue although images were added, removed or changed since an earlier stage, or "
        "since this one was started: what is finished keeps what it learned from the earlier "
        "images, the rest uses the present ones, and results are no longer of one set of images.",
    ),
]
Quiet = Annotated[
    bool, Parameter(negative="", show_default=False, help="Print warnings and errors only.")
]
Json = Annotated[bool, Parameter(negative="", show_default=False, help="Print the result as JSON.")]
Space = Annotated[
    str | None,
    Parameter(
        help="Search space: tiny, small, base, wide, micro, wide-micro, demo, digits, or a .toml "
        "or .json file."
    ),
]
Epochs = Annotated[int | None, Parameter(help="Epochs of teacher, supernet, fine-tuning.")]
BatchSize = Annotated[
    int | None, Parameter(help="Number of images in a step of every training stage.")
]
Refine = Annotated[
    bool,
    Parameter(
        show_default=False,
        help="Refine the best networks of the search (default).",
    ),
]
FinetuneSeeds = Annotated[
    int,
    Parameter(
        validator=Number(gte=1, lte=100),
        show_default=False,
        help="Fine-tunings of each network, each with the next seed. By default 1.",
    ),
]
Supervised = Annotated[
    bool,
    Parameter(
        negative="",
        show_default=False,
        group="Teacher",
        help="Train and search the supernet with labels, as AutoFormer does: without teacher and "
        "refinement.",
    ),
]
Adopted = Annotated[AdoptedTeacher | None, Parameter(name="*", group="Teacher")]
Limits = Annotated[UsedBudgetSettings | None, Parameter(name="*", group="Budget")]
Latency = Annotated[LatencySettings | None, Parameter(name="*", group="Latency")]
Data = Annotated[DataSettings | None, Parameter(name="*", group="Images")]
Machine = Annotated[RuntimeSettings | None, Parameter(name="*", group="Machine")]


@dataclass(frozen=True, slots=True)
class StageSettings:
    """Settings that every stage takes, from the configuration file and the flags over it.

    Attributes:
        data: which images, how large, and how they are divided.
        runtime: seed, device and precision.
        sections: the configuration file.
    """

    data: DataSettings
    runtime: RuntimeSettings
    sections: dict[str, dict[str, Any]]

    @property
    def segment(self) -> SegmentSettings:
        """Settings of a segmentation in the configuration file."""
        return resolve(SegmentSettings, self.sections.get("segment"))

    @staticmethod
    def read(
        config: Path | None, images: DataSettings | None, machine: RuntimeSettings | None
    ) -> StageSettings:
        """Read the configuration file and lay the flags over it."""
        said = load(config)
        return StageSettings(
            resolve(DataSettings, said.get("data"), images),
            resolve(RuntimeSettings, said.get("runtime"), machine),
            said,
        )


def settings_of_all(
    config: Path | None,
    images: DataSettings | None,
    machine: RuntimeSettings | None,
    *,
    training: dict[str, Any],
    adopted: AdoptedTeacher | None = None,
    space: dict[str, Any] | None = None,
    costs: Sequence[Settings | None],
) -> AllSettings:
    """Return every stage's settings: from the file, with the flags of a whole run over it."""
    said = load(config)
    layers: dict[str, dict[str, Any]] = {
        "data": given(images),
        "runtime": given(machine),
        "teacher": training,
        "supernet": training | (space or {}) | given(adopted),
        "search": given(*costs),
        "refine": {name: value for name, value in training.items() if name != "epochs"},
        "finetune": training,
    }
    merged = {name: said.get(name, {}) | flags for name, flags in layers.items()}
    whole, segment = validate(AllSettings, merged), resolve(SegmentSettings, said.get("segment"))
    counting = {name: getattr(whole, name).with_decoder(segment) for name in ("supernet", "search")}
    return whole.model_copy(update=counting)


def given(*groups: Settings | None) -> dict[str, Any]:
    """Return the flags of some groups that were given."""
    said: dict[str, Any] = {}
    for group in groups:
        said |= group.model_dump(exclude_unset=True) if group else {}
    return said


def without_none(**values: Any) -> dict[str, Any]:
    """Return the flags that were given."""
    return {name: value for name, value in values.items() if value is not None}
