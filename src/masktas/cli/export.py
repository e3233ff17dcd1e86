"""`masktas export`: a network for other programs, with the proof that it computes the same."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from masktas.cli.options import Json, Overwrite, Quiet
from masktas.cli.predict import NetworkPath
from masktas.console import Console
from masktas.formats import columns, shown

TOO_FAR = 1  # exit code: a form was not written


def export(
    path: NetworkPath,
    /,
    *,
    to: Annotated[
        str | None,
        Parameter(
            help="Forms to write, with commas between them: torch, timm, hf, torch-export, onnx, "
            "onnx-int8, onnx-int8-static. By default all that can be written."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(help="Folder for the export. By default export/NAME of the network's run."),
    ] = None,
    name: Annotated[
        str | None,
        Parameter(help="Name of the export in the run. By default made from the network's folder."),
    ] = None,
    calibrate: Annotated[
        str | None,
        Parameter(
            help="Images, as for `predict`, on which the ranges of activations are found for a "
            "second 8-bit file with fixed ranges (onnx-int8-static)."
        ),
    ] = None,
    bake_preprocess: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Put cropping and normalisation into the ONNX files: they take decoded images, "
            "bytes [B, H, W, C].",
        ),
    ] = False,
    num_images: Annotated[
        int,
        Parameter(
            validator=Number(gte=1),
            help="Number of held-out images, at most, on which each form is compared with the "
            "network.",
        ),
    ] = 200,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Export a network."""
    from masktas.stages.export.stage import export as stage
    from masktas.stages.export.stage import is_complete, table_of

    console = Console(quiet=quiet)
    record = stage(
        path,
        to=to,
        out=out,
        name=name,
        calibrate=calibrate,
        bake_preprocess=bake_preprocess,
        num_images=num_images,
        console=console,
        overwrite=overwrite,
    )
    if json:
        print(json_module.dumps(record, indent=2))
    else:
        header, rows = table_of(record)
        for line in columns([header, *rows]):
            print(shown(line))
        print(shown(f"Compared on {record['images']}, on {record['machine']}."))
    if not is_complete(record):
        sys.exit(TOO_FAR)
