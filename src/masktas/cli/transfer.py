"""`masktas transfer`: the network for other images, with the supernet of a finished run."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from masktas.cli.options import (
    AcceptChangedImages,
    Config,
    Data,
    FinetuneSeeds,
    Json,
    Latency,
    Limits,
    Machine,
    Out,
    Overwrite,
    Quiet,
    Refine,
    given,
    settings_of_all,
    without_none,
)
from masktas.cli.stages import Images, check_first
from masktas.console import Console
from masktas.errors import ConfigError


def transfer(
    data: Images,
    /,
    *,
    source: Annotated[
        Path, Parameter(name="--from", help="Run folder with the supernet to search again.")
    ],
    out: Out,
    keep_architecture: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Fine-tune the network that --from has found, without a search.",
        ),
    ] = False,
    epochs: Annotated[int | None, Parameter(help="Number of epochs of fine-tuning.")] = None,
    batch_size: Annotated[
        int | None,
        Parameter(help="Number of images in a step of refinement and fine-tuning."),
    ] = None,
    refine: Refine = True,
    baselines: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Also fine-tune uniform and random networks, the network of --from, and the "
            "winner from scratch.",
        ),
    ] = False,
    finetune_seeds: FinetuneSeeds = 1,
    budget: Limits = None,
    latency: Latency = None,
    config: Config = None,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
    quiet: Quiet = False,
    json: Json = False,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Search and fine-tune for other images."""
    if keep_architecture and (limits := given(budget, latency)):
        raise ConfigError(
            f"--{next(iter(limits)).replace('_', '-')} belongs to a search, and "
            "--keep-architecture leaves the search out: give one or the other."
        )
    settings = settings_of_all(
        config,
        images,
        machine,
        training=without_none(epochs=epochs, batch_size=batch_size),
        costs=(budget, latency),
    )
    if not keep_architecture:
        check_first(settings.search, source)
    from masktas.stages.transfer.stage import transfer as whole

    made = whole(
        data,
        source=source,
        out=out,
        settings=settings,
        keep_architecture=keep_architecture,
        refine=refine,
        baselines=baselines,
        finetune_seeds=finetune_seeds,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    if json:
        print(json_module.dumps(made, indent=2))
