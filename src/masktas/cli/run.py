"""`masktas run` and `masktas demo`: the whole way."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from masktas.cli.options import Config, Data, Json, Machine, Out, Overwrite, Quiet
from masktas.cli.stages import Images
from masktas.config import AllSettings, load, validate
from masktas.console import Console


def run(
    data: Images,
    /,
    *,
    out: Out,
    space: Annotated[
        str | None,
        Parameter(help="tiny, small, base, micro, demo, or a .toml or .json file."),
    ] = None,
    max_params: Annotated[str | None, Parameter(help="At most this many parameters: 6M.")] = None,
    min_params: Annotated[str | None, Parameter(help="At least this many parameters.")] = None,
    max_macs: Annotated[
        str | None, Parameter(help="At most this many multiply-accumulates: 1.3G.")
    ] = None,
    min_macs: Annotated[
        str | None, Parameter(help="At least this many multiply-accumulates.")
    ] = None,
    epochs: Annotated[int | None, Parameter(help="Of every training stage at once.")] = None,
    batch_size: Annotated[
        int | None, Parameter(help="Images of a step, in every training stage.")
    ] = None,
    baselines: Annotated[
        bool,
        Parameter(
            negative="",
            help="Fine-tune, by the same recipe, also the winner from scratch, the largest uniform "
            "network that fits and random ones of the winner's size.",
        ),
    ] = False,
    config: Config = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Go the whole way on images of the user."""
    from masktas.pipeline import run as whole

    said = load(config)
    training = _without_none(epochs=epochs, batch_size=batch_size)
    limits = _without_none(
        max_params=max_params, min_params=min_params, max_macs=max_macs, min_macs=min_macs
    )
    layers: dict[str, dict[str, Any]] = {
        "data": images.model_dump(exclude_unset=True) if images else {},
        "runtime": machine.model_dump(exclude_unset=True) if machine else {},
        "teacher": training,
        "supernet": training | _without_none(space=space),
        "search": limits,
        "finetune": training,
    }
    merged = {name: said.get(name, {}) | flags for name, flags in layers.items()}
    made = whole(
        data,
        out=out,
        settings=validate(AllSettings, merged),
        baselines=baselines,
        console=Console(quiet=quiet),
        overwrite=overwrite,
    )
    if json:
        print(json_module.dumps(made, indent=2))


def demo(
    *,
    out: Out = Path("masktas-demo"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
    machine: Machine = None,
) -> None:
    """Go the whole way on the demo's images."""
    from masktas.pipeline import demo as whole

    made = whole(
        out=out,
        runtime=machine,
        console=Console(quiet=quiet),
        overwrite=overwrite,
    )
    if json:
        print(json_module.dumps(made, indent=2))


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
