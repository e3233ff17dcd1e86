"""Flags that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from masktas.config import DataSettings, RuntimeSettings, load, resolve

Out = Annotated[Path, Parameter(help="The run folder; made if it is not there.")]
Config = Annotated[
    Path | None,
    Parameter(help="A TOML file of settings, a section for each stage; flags go over it."),
]
Overwrite = Annotated[
    bool, Parameter(negative="", help="Start afresh instead of going on; drops what is there.")
]
Quiet = Annotated[bool, Parameter(negative="", help="Print warnings and errors only.")]
Json = Annotated[bool, Parameter(negative="", help="Print the result as JSON on standard output.")]
Data = Annotated[DataSettings | None, Parameter(name="*", group="Images")]
Machine = Annotated[RuntimeSettings | None, Parameter(name="*", group="Machine")]


def given_data(config: Path | None, flags: DataSettings | None) -> DataSettings:
    """Return what file and flags say of the images, and no defaults but pydantic's own."""
    return resolve(DataSettings, load(config).get("data"), flags)


def given_runtime(config: Path | None, flags: RuntimeSettings | None) -> RuntimeSettings:
    """Return the machine's settings."""
    return resolve(RuntimeSettings, load(config).get("runtime"), flags)
