"""`masktas plan`: hours, memory and operations of a run before it starts."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from masktas.cli.options import (
    Adopted,
    BatchSize,
    Config,
    Data,
    Epochs,
    Json,
    Latency,
    Limits,
    Machine,
    Quiet,
    Refine,
    Space,
    Supervised,
    settings_of_all,
    without_none,
)
from masktas.cli.stages import check_first
from masktas.config import AllSettings
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.formats import format_bytes, format_flops, format_seconds, shown
from masktas.space import SearchSpace

if TYPE_CHECKING:
    from masktas.stages.plan.estimates import StageEstimate

HEADER = ("stage", "images seen", "images/s", "time", "memory", "operations")
WIDTHS = (10, 15, 12, 12, 10, 13)


def plan(
    data: Annotated[
        str | None, Parameter(help="Images as for `run`; only their number counts.")
    ] = None,
    /,
    *,
    num_images: Annotated[int | None, Parameter(help="Number of images, instead of DATA.")] = None,
    space: Space = None,
    source: Annotated[
        Path | None,
        Parameter(
            name="--from",
            help="Plan a transfer from this run folder: its teacher and supernet are not trained.",
        ),
    ] = None,
    refine: Refine = True,
    supervised: Supervised = False,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    devices: Annotated[int, Parameter(help="Number of devices that share each batch.")] = 1,
    tflops: Annotated[
        float | None,
        Parameter(
            help="Matrix-product speed of another device in 10^12 FLOPs a second, as "
            "`masktas doctor` measures it there."
        ),
    ] = None,
    share: Annotated[
        float,
        Parameter(help="Share of --tflops that training reaches, as manifests record it."),
    ] = 0.3,
    seconds: Annotated[float, Parameter(help="Seconds to spend benchmarking this machine.")] = 60.0,
    teacher: Adopted = None,
    budget: Limits = None,
    latency: Latency = None,
    config: Config = None,
    quiet: Quiet = False,
    json: Json = False,
    images: Data = None,
    machine: Machine = None,
) -> None:
    """Estimate a run."""
    settings = settings_of_all(
        config,
        images,
        machine,
        training=without_none(epochs=epochs, batch_size=batch_size),
        adopted=teacher,
        space=without_none(space=space, supervised=supervised or None),
        costs=(budget, latency),
    )
    _check(data, num_images, devices, tflops, share, seconds)
    if source is not None and (space or teacher):
        raise ConfigError("--from has a space and a teacher: leave out --space and --teacher.")
    if source is not None:
        check_first(settings.search, source)
    else:
        settings.search.check(SearchSpace.load(settings.supernet.space))  # before torch is loaded
    from masktas.stages.plan.estimates import Device
    from masktas.stages.plan.stage import plan as stage

    images_there = num_images if data is None else _count(data, settings)
    assert images_there is not None
    found = stage(
        images_there,
        settings,
        refine=refine,
        devices=devices,
        device=Device(tflops * 1e12, share) if tflops else None,
        seconds=seconds,
        console=Console(quiet=quiet),
        source=source,
    )
    if json:
        print(json_module.dumps([one.to_dict() for one in found], indent=2))
        return
    where = f"{devices} x " if devices > 1 else ""
    figures = f"{tflops:g} TFLOP/s at {share:.0%}" if tflops else "this machine, measured"
    what = f"space {settings.supernet.space}" if source is None else f"transfer from {source}"
    print(f"{images_there:,} images, {shown(what)}, {where}{figures}")
    for line in lines_of(found, devices):
        print(line)


def _check(
    data: str | None,
    num_images: int | None,
    devices: int,
    tflops: float | None,
    share: float,
    seconds: float,
) -> None:
    """Refuse flags that do not go together or are out of range, before torch is loaded."""
    if (data is None) == (num_images is None):
        raise ConfigError("Give either DATA or --num-images.")
    if devices < 1 or seconds <= 0 or (num_images is not None and num_images < 1):
        raise ConfigError("--devices, --num-images and --seconds must be above 0.")
    if (tflops is not None and tflops <= 0) or not 0 < share <= 1:
        raise ConfigError("--tflops must be above 0, and --share above 0 and at most 1.")


def _count(data: str, settings: AllSettings) -> int:
    """Return how many images a run would use."""
    from masktas.stages.common.images import ImageInput

    source = ImageInput.of(data, settings.data).source(download=settings.runtime.download)
    sizes = source.sizes()
    if sizes is None:
        raise ConfigError(
            f"{source.location} does not list how many images it holds: give --num-images."
        )
    return min(sum(sizes), settings.data.limit or 10**12)


def lines_of(found: Sequence[StageEstimate], devices: int) -> list[str]:
    """Format estimates as a table, with what they do not count."""
    rows = [
        (
            one.stage,
            f"{one.images:,}",
            f"{one.images_per_second:,.0f}",
            format_seconds(one.seconds),
            format_bytes(one.memory_bytes),
            format_flops(one.flops),
        )
        for one in found
    ]
    total = sum(one.seconds for one in found), sum(one.flops for one in found)
    rows.append(("all", "", "", format_seconds(total[0]), "", format_flops(total[1])))
    lines = [
        "  " + "".join(f"{cell:>{width}}" for cell, width in zip(row, WIDTHS, strict=True))
        for row in [HEADER, *rows]
    ]
    lines.append(
        "Time is that of the steps; memory is weights, optimiser and activations of one device. "
        "Fine-tuning is that of the costliest network within the budget."
    )
    if devices > 1:
        exchanged = max(one.gradient_bytes for one in found)
        lines.append(
            "Devices are assumed to share the work evenly; exchanging up to "
            f"{format_bytes(exchanged)} of gradients in a step is not counted."
        )
    return lines
