"""`masktas push`: an export to the Hugging Face hub."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from masktas.cli.options import Json, Quiet
from masktas.formats import columns, counted, shown


def push(
    path: Annotated[Path, Parameter(help="Export: the folder that `masktas export` wrote.")],
    repository: Annotated[str, Parameter(help="Repository of the hub, as ORG/NAME.")],
    /,
    *,
    private: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Create the repository as a private one; a public one is refused.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="List the files and their sizes, and send nothing.",
        ),
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Send an export to the hub."""
    from masktas.stages.export.push import push as stage

    record = stage(path, repository, private=private, dry_run=dry_run, quiet=quiet)
    if json:
        print(json_module.dumps(record, indent=2))
        return
    for line in columns([[one["name"], f"{one['bytes']:,}"] for one in record["files"]]):
        print(shown(line))
    files = f"{counted(len(record['files']), 'file')}, {record['bytes']:,} bytes"
    if dry_run:
        print(f"{files}: nothing was sent to {repository}.")
        return
    for name in record["deleted"]:
        print(f"{name} of an earlier export was deleted there.")
    print(f"{files}: sent to {shown(record['address'])}.")
