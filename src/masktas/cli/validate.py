"""`masktas validate`: does the rating rank networks as accuracy does?"""

from __future__ import annotations

import json as json_module
from typing import Annotated

from cyclopts import Parameter

from masktas.cli.options import Config, Data, Json, Machine, Out, Overwrite, Quiet, common
from masktas.cli.stages import Name, SameImages
from masktas.config import load, resolve
from masktas.formats import format_seconds
from masktas.stages.validate import ValidateSettings
from masktas.stages.validate import validate as stage


def validate(
    data: SameImages = None,
    /,
    *,
    out: Out,
    name: Name = "main",
    config: Config = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
    options: Annotated[ValidateSettings | None, Parameter(name="*", group="Validation")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Compare ratings with accuracy."""
    manifest = stage(
        data,
        out=out,
        name=name,
        settings=resolve(ValidateSettings, load(config).get("validate"), options),
        **common(config, images, machine, quiet=quiet, overwrite=overwrite),
    )
    if json:
        print(json_module.dumps(manifest, indent=2))
        return
    print(manifest["verdict"])
    print(f"{out}/validate/{name} is ready ({format_seconds(manifest['cost']['seconds'])}).")
