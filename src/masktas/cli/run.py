"""`masktas run` and `masktas demo`: all stages."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from masktas.cli.options import (
    AcceptChangedImages,
    Adopted,
    BatchSize,
    Config,
    Data,
    Epochs,
    FinetuneSeeds,
    Json,
    Latency,
    Limits,
    Machine,
    Out,
    Overwrite,
    Quiet,
    Refine,
    Space,
    Supervised,
    settings_of_all,
    without_none,
)
from masktas.cli.stages import Images
from masktas.console import Console
from masktas.space import SearchSpace


def run(
    data: Images,
    /,
    *,
    out: Out,
    space: Space = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    refine: Refine = True,
    supervised: Supervised = False,
    baselines: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Also refine and fine-tune the search's uniform and random networks, and train "
            "the winner from scratch.",
        ),
    ] = False,
    finetune_seeds: FinetuneSeeds = 1,
    teacher: Adopted = None,
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
    """Run every stage on images of the user."""
    settings = settings_of_all(
        config,
        images,
        machine,
        training=without_none(epochs=epochs, batch_size=batch_size),
        adopted=teacher,
        space=without_none(space=space, supervised=supervised or None),
        costs=(budget, latency),
    )
    settings.search.check(SearchSpace.load(settings.supernet.space))  # before torch is loaded
    from masktas.stages.run import run as whole

    made = whole(
        data,
        out=out,
        settings=settings,
        refine=refine,
        baselines=baselines,
        finetune_seeds=finetune_seeds,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
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
    """Run every stage on the demo's images."""
    from masktas.stages.demo import demo as whole

    made = whole(
        out=out,
        runtime=machine,
        console=Console(quiet=quiet),
        overwrite=overwrite,
    )
    if json:
        print(json_module.dumps(made, indent=2))
