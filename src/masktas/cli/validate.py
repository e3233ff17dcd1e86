"""`masktas validate`: whether ratings rank networks as accuracy does."""

from __future__ import annotations

import json as json_module
from typing import Annotated

from cyclopts import Parameter

from masktas.cli.options import (
    AcceptChangedImages,
    Config,
    Data,
    Json,
    Machine,
    Out,
    Overwrite,
    Quiet,
    StageSettings,
)
from masktas.cli.stages import Name, SameImages, check_first
from masktas.config import (
    BudgetSettings,
    ComparisonSettings,
    FinetuneSettings,
    LatencySettings,
    RatingSettings,
    ValidateSettings,
    resolve,
)
from masktas.console import Console
from masktas.formats import format_seconds, shown


def validate(
    data: SameImages = None,
    /,
    *,
    out: Out,
    name: Name = "main",
    config: Config = None,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
    quiet: Quiet = False,
    json: Json = False,
    compared: Annotated[ComparisonSettings | None, Parameter(name="*", group="Validation")] = None,
    rating: Annotated[RatingSettings | None, Parameter(name="*", group="Rating")] = None,
    budget: Annotated[BudgetSettings | None, Parameter(name="*", group="Budget")] = None,
    latency: Annotated[LatencySettings | None, Parameter(name="*", group="Latency")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Compare ratings with accuracy."""
    common = StageSettings.read(config, images, machine)
    section = common.sections.get("validate")
    settings = resolve(ValidateSettings, section, compared, rating, budget, latency)
    settings = settings.with_decoder(common.segment)
    check_first(settings, out)
    recipe = common.sections.get("finetune")
    from masktas.stages.validate.stage import validate as stage

    manifest = stage(
        data,
        out=out,
        name=name,
        settings=settings,
        finetune_settings=None if recipe is None else resolve(FinetuneSettings, recipe),
        data_settings=common.data,
        runtime=common.runtime,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    if json:
        print(json_module.dumps(manifest, indent=2))
        return
    print(shown(manifest["verdict"]))
    if manifest["difference"]:
        print(shown(manifest["difference"]))
    seconds = format_seconds(manifest["cost"]["seconds"])
    print(f"{shown(str(out))}/validate/{name} is ready ({seconds}).")
