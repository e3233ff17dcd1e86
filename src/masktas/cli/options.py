"""Flags that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from masktas.config import DataSettings, RuntimeSettings, load, resolve
from masktas.console import Console

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


def common(
    config: Path | None,
    images: DataSettings | None,
    machine: RuntimeSettings | None,
    *,
    quiet: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Return the arguments that every stage takes, from the file and the flags over it."""
    said = load(config)
    return {
        "data_settings": resolve(DataSettings, said.get("data"), images),
        "runtime": resolve(RuntimeSettings, said.get("runtime"), machine),
        "console": Console(quiet=quiet),
        "overwrite": overwrite,
    }
