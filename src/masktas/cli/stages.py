"""The command of each stage: `masktas teacher`, `supernet`, ... `segment`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from masktas.artifacts import SPACE, Run
from masktas.cli.options import (
    AcceptChangedImages,
    Config,
    Data,
    Json,
    Latency,
    Limits,
    Machine,
    Out,
    Overwrite,
    Quiet,
    StageSettings,
    given,
)
from masktas.config import (
    BudgetSettings,
    CostSettings,
    DistillSettings,
    FinetuneSettings,
    RatingSettings,
    RefineSettings,
    SearchSettings,
    SegmentSettings,
    SharingSettings,
    StrategySettings,
    SupernetSettings,
    TeacherSettings,
    resolve,
)
from masktas.console import Console
from masktas.formats import format_seconds, shown
from masktas.space import SearchSpace, format_quantity
from masktas.stages.common.manifest import RefineManifest, SearchManifest
from masktas.stages.refine.table import refined_table
from masktas.stages.search.table import ResultTable

Images = Annotated[
    str,
    Parameter(
        help="Images: a folder, list, glob, zip, tar or parquet files, WebDataset shards, a name "
        "(cifar10, hf:owner/name), or an address (s3://...)."
    ),
]
SameImages = Annotated[
    str | None, Parameter(help="Images to use. By default those of the stage before.")
]
Name = Annotated[str, Parameter(help="Name of the result; one run can hold several.")]


def teacher(
    data: Images,
    /,
    *,
    out: Out,
    config: Config = None,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
    quiet: Quiet = False,
    json: Json = False,
    options: Annotated[TeacherSettings | None, Parameter(name="*", group="Teacher")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Pre-train the teacher."""
    common = StageSettings.read(config, images, machine)
    space = common.sections.get("supernet", {}).get("space")
    from masktas.stages.teacher.stage import teacher as stage

    manifest = stage(
        data,
        out=out,
        settings=resolve(TeacherSettings, common.sections.get("teacher"), options),
        data_settings=common.data,
        runtime=common.runtime,
        space=None if space is None else SearchSpace.load(space),
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    _print(manifest, json, f"{out}/teacher is ready")


def supernet(
    data: SameImages = None,
    /,
    *,
    out: Out,
    config: Config = None,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
    quiet: Quiet = False,
    json: Json = False,
    budget: Annotated[BudgetSettings | None, Parameter(name="*", group="Budget")] = None,
    latency: Latency = None,
    options: Annotated[SharingSettings | None, Parameter(name="*", group="Supernet")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Train the supernet."""
    common = StageSettings.read(config, images, machine)
    settings = resolve(
        SupernetSettings, common.sections.get("supernet"), given(budget, latency, options)
    ).with_decoder(common.segment)
    settings.check(SearchSpace.load(settings.space))  # before torch is loaded
    from masktas.stages.supernet.stage import supernet as stage

    manifest = stage(
        data,
        out=out,
        settings=settings,
        data_settings=common.data,
        runtime=common.runtime,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    _print(manifest, json, f"{out}/supernet is ready")


def search(
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
    budget: Limits = None,
    latency: Latency = None,
    rating: Annotated[RatingSettings | None, Parameter(name="*", group="Rating")] = None,
    options: Annotated[StrategySettings | None, Parameter(name="*", group="Search")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Search within a budget."""
    common = StageSettings.read(config, images, machine)
    settings = resolve(
        SearchSettings, common.sections.get("search"), given(budget, latency, rating, options)
    ).with_decoder(common.segment)
    check_first(settings, out)
    from masktas.stages.search.stage import search as stage

    manifest = stage(
        data,
        out=out,
        name=name,
        settings=settings,
        data_settings=common.data,
        runtime=common.runtime,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    if not json:
        ResultTable.of(SearchManifest.of(manifest)).print(Console(quiet=quiet))
    winner = manifest["winner"]
    _print(
        manifest,
        json,
        f"{out}/search/{name} is ready: {format_quantity(winner['params'])} parameters, "
        f"{format_quantity(winner['macs'])} MACs, rating {winner['rating']:.4f}",
    )


def refine(
    data: SameImages = None,
    /,
    *,
    out: Out,
    name: Annotated[str, Parameter(help="Name of the search, and of the result.")] = "main",
    config: Config = None,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
    quiet: Quiet = False,
    json: Json = False,
    options: Annotated[RefineSettings | None, Parameter(name="*", group="Refinement")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Train the best networks of a search by themselves."""
    common = StageSettings.read(config, images, machine)
    from masktas.stages.refine.stage import refine as stage

    manifest = stage(
        data,
        out=out,
        name=name,
        settings=resolve(RefineSettings, common.sections.get("refine"), options),
        data_settings=common.data,
        runtime=common.runtime,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    found = RefineManifest.of(manifest)
    if not json:
        refined_table(found, Console(quiet=quiet))
    winner = found.winner
    _print(
        manifest,
        json,
        f"{out}/refine/{name} is ready: {winner.name}, "
        f"{format_quantity(winner.network.costs['params'])} parameters, "
        f"{format_quantity(winner.network.costs['macs'])} MACs",
    )


def distill(
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
    options: Annotated[DistillSettings | None, Parameter(name="*", group="Distillation")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Train one network alone by masked distillation."""
    common = StageSettings.read(config, images, machine)
    from masktas.stages.distill.stage import distill as stage

    manifest = stage(
        data,
        out=out,
        name=name,
        settings=resolve(DistillSettings, common.sections.get("distill"), options),
        data_settings=common.data,
        runtime=common.runtime,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    _print(
        manifest,
        json,
        f"{out}/distill/{name} is ready: {format_quantity(manifest['params'])} parameters, "
        f"{format_quantity(manifest['macs'])} MACs, {manifest['cost']['images']:,} images seen",
    )


def finetune(
    data: SameImages = None,
    /,
    *,
    out: Out,
    name: Name = "main",
    architecture: Annotated[
        Path | None,
        Parameter(
            help="Network to train: its folder, or an architecture.json. By default that of "
            "OUT/refine/main or, without one, of OUT/search/main."
        ),
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
    quiet: Quiet = False,
    json: Json = False,
    options: Annotated[FinetuneSettings | None, Parameter(name="*", group="Fine-tuning")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Fine-tune with labels."""
    common = StageSettings.read(config, images, machine)
    from masktas.stages.finetune import finetune as stage

    manifest = stage(
        data,
        out=out,
        name=name,
        architecture=architecture,
        settings=resolve(FinetuneSettings, common.sections.get("finetune"), options),
        data_settings=common.data,
        runtime=common.runtime,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    test = manifest["test"]
    count = manifest["images"]["splits"]["test"]["images"]
    of_classes = test.get("mean_per_class")  # earlier versions did not measure it
    more = "" if of_classes is None else f", mean per class {of_classes:.2%}"
    _print(
        manifest,
        json,
        f"{out}/finetune/{name} is ready: top-1 {test['top1']:.2%}, top-5 {test['top5']:.2%}{more} "
        f"on {count:,} test images",
    )


def segment(
    data: Annotated[
        str,
        Parameter(
            help="Images with masks: a folder of images/ and masks/ with the same names, ADE20K's "
            "folder, or parquet files with columns image and mask."
        ),
    ],
    /,
    *,
    out: Out,
    name: Name = "main",
    architecture: Annotated[
        Path | None,
        Parameter(
            help="Backbone, an architecture.json. By default that of OUT/refine/main or, without "
            "one, of OUT/search/main."
        ),
    ] = None,
    config: Config = None,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
    quiet: Quiet = False,
    json: Json = False,
    options: Annotated[SegmentSettings | None, Parameter(name="*", group="Segmentation")] = None,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Train a segmenter with masks."""
    common = StageSettings.read(config, images, machine)
    from masktas.stages.segment.stage import segment as stage

    manifest = stage(
        data,
        out=out,
        name=name,
        architecture=architecture,
        settings=resolve(SegmentSettings, common.sections.get("segment"), options),
        data_settings=common.data,
        runtime=common.runtime,
        console=Console(quiet=quiet),
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )
    test = manifest["test"]
    count = manifest["images"]["splits"]["test"]["images"]
    _print(
        manifest,
        json,
        f"{out}/segment/{name} is ready: mIoU {test['miou']:.2%}, {test['pixel_accuracy']:.2%} of "
        f"the pixels are right, on {count:,} test images",
    )


def check_first(settings: CostSettings, out: Path) -> None:
    """Refuse settings that cannot succeed in a run's space, in less time than torch takes to load.

    Without a supernet there is no space yet: the stage reports that.
    """
    space = Run(out).supernet.folder / SPACE
    if space.exists():
        settings.check(SearchSpace.load(space))


def _print(manifest: dict[str, Any], json: bool, sentence: str) -> None:
    if json:
        print(json_module.dumps(manifest, indent=2))
    else:
        print(f"{shown(sentence)} ({format_seconds(manifest['cost']['seconds'])}).")
