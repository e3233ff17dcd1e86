"""`masktas plan`: hours, memory and operations of a run before it starts."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass
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
from masktas.config import AllSettings, DistillSettings, SegmentSettings, load, resolve
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.formats import format_bytes, format_flops, format_seconds, format_speed, shown
from masktas.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from masktas.stages.plan.estimates import Device, StageEstimate

HEADER = ("stage", "images seen", "images/s", "time", "memory", "operations")
WIDTHS = (10, 15, 12, 12, 10, 13)
OTHERS = "Plans of one network"


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
    segment: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            group=OTHERS,
            help="Plan `masktas segment` instead of a run.",
        ),
    ] = False,
    distill: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            group=OTHERS,
            help="Plan `masktas distill` instead, for as many images as the supernet sees.",
        ),
    ] = False,
    architecture: Annotated[
        str | None,
        Parameter(
            group=OTHERS,
            help="Its network instead of the costliest within the budget: an architecture.json, "
            "or, to distill, uniform:384x12.",
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
    """Estimate a run, a segmentation, or the distillation of one network."""
    training = without_none(epochs=epochs, batch_size=batch_size)
    settings = settings_of_all(
        config,
        images,
        machine,
        training=training,
        adopted=teacher,
        space=without_none(space=space, supervised=supervised or None),
        costs=(budget, latency),
    )
    _check(data, num_images, devices, tflops, share, seconds)
    how = _How(devices, _device(tflops, share), seconds, Console(quiet=quiet), json)
    if (segment or distill) and (source is not None or segment is distill):
        raise ConfigError("--segment, --distill and --from are plans of their own: give one.")
    if architecture is not None and not (segment or distill):
        raise ConfigError("--architecture goes with --segment or --distill.")
    if segment:
        segmented = resolve(SegmentSettings, load(config).get("segment"), training)
        settings = settings.model_copy(update={"segment": segmented})
        path = None if architecture is None else Path(architecture)
        _segment(data, num_images, settings, path, how)
        return
    if distill:
        trained = resolve(
            DistillSettings,
            load(config).get("distill"),
            training | without_none(architecture=architecture),
        )
        settings = settings.model_copy(update={"distill": trained})
    if source is not None and (space or teacher):
        raise ConfigError("--from has a space and a teacher: leave out --space and --teacher.")
    if source is not None:
        check_first(settings.search, source)
    else:
        settings.search.check(SearchSpace.load(settings.supernet.space))  # before torch is loaded
    from masktas.stages.distill.stage import BASELINES
    from masktas.stages.plan.stage import plan as stage

    if num_images is None:
        settings, images_there = _counted(data, settings)
    else:
        images_there = num_images
    found = stage(
        images_there,
        settings,
        refine=refine,
        devices=devices,
        device=how.device,
        seconds=seconds,
        console=how.console,
        source=source,
        distill=distill,
    )
    what = f"space {settings.supernet.space}" if source is None else f"transfer from {source}"
    note = "Fine-tuning is that of the costliest network within the budget."
    if distill:
        named = settings.distill.architecture
        network = "the costliest within the budget" if named in BASELINES else shown(named)
        note = f"The network is {network}; fine-tuning it is not counted."
    _print(found, f"{images_there:,} images, {what}", note, how)


@dataclass(frozen=True, slots=True)
class _How:
    """How an estimate is made and shown: the fields are flags."""

    devices: int
    device: Device | None
    seconds: float
    console: Console
    json: bool


def _segment(
    data: str | None,
    num_images: int | None,
    settings: AllSettings,
    architecture: Path | None,
    how: _How,
) -> None:
    """Estimate a segmentation and print it."""
    given = None if architecture is None else Architecture.load(architecture)
    if given is None:
        settings.search.check(SearchSpace.load(settings.supernet.space))  # before torch is loaded
    from masktas.data.masks import ADE_CLASSES, open_pairs
    from masktas.stages.plan.segmenting import plan_segment

    classes, names = ADE_CLASSES, settings.segment.names
    if data is not None:
        ignore, column = settings.segment.ignore, settings.data.image_column
        pairs = open_pairs(data, image_column=column, ignore=ignore)
        num_images = len(pairs.places)
        classes = classes if pairs.classes is None else len(pairs.classes.names)
    classes = classes if names is None else len(names)
    assert num_images is not None
    found = plan_segment(
        num_images,
        settings,
        num_classes=classes,
        architecture=given,
        devices=how.devices,
        device=how.device,
        seconds=how.seconds,
        console=how.console,
    )
    what = f"network {architecture}" if given else f"space {settings.supernet.space}"
    note = f"Backbone and decoder are counted, with {classes} classes; validation is not."
    title = f"{num_images:,} images with masks, {what}"
    _print([found], title, note, how)


def _device(tflops: float | None, share: float) -> Device | None:
    """Return the figures of another machine, if they are given."""
    from masktas.stages.plan.estimates import Device

    return Device(tflops * 1e12, share) if tflops else None


def _print(found: Sequence[StageEstimate], title: str, note: str, how: _How) -> None:
    """Print estimates, as JSON or as a table below what they are of."""
    if how.json:
        print(json_module.dumps([one.to_dict() for one in found], indent=2))
        return
    device = how.device
    where = f"{how.devices} x " if how.devices > 1 else ""
    figures = "this machine, measured"
    if device is not None:
        figures = f"{device.flops / 1e12:g} TFLOP/s at {device.share:.0%}"
    print(f"{shown(title)}, {where}{figures}")
    for line in lines_of(found, how.devices, note):
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


def _counted(data: str | None, settings: AllSettings) -> tuple[AllSettings, int]:
    """Return the settings, and how many images of a source a run would divide by their shares.

    Images that the source declares as test images are the test split, whatever its share.
    """
    assert data is not None  # see `_check`
    from masktas.data.sources.base import IndexedSource
    from masktas.stages.common.images import ImageInput

    source = ImageInput.of(data, settings.data).source(download=settings.runtime.download)
    sizes = source.sizes()
    if sizes is None:
        raise ConfigError(
            f"{source.location} does not list how many images it holds: give --num-images."
        )
    total = sum(sizes)
    kept = min(total, settings.data.limit or total)
    tests = source.num_tests if isinstance(source, IndexedSource) else 0
    if not tests:
        return settings, kept
    divided = settings.data.model_copy(update={"test_share": 0.0})
    return settings.model_copy(update={"data": divided}), round(kept * (1 - tests / total))


def lines_of(found: Sequence[StageEstimate], devices: int, note: str) -> list[str]:
    """Format estimates as a table, with what they do not count, and a note on what they do."""
    rows = [
        (
            one.stage,
            f"{one.images:,}",
            format_speed(one.images_per_second),
            format_seconds(one.seconds),
            format_bytes(one.memory_bytes),
            format_flops(one.flops),
        )
        for one in found
    ]
    total = sum(one.seconds for one in found), sum(one.flops for one in found)
    if len(rows) > 1:
        rows.append(("all", "", "", format_seconds(total[0]), "", format_flops(total[1])))
    lines = [
        "  " + "".join(f"{cell:>{width}}" for cell, width in zip(row, WIDTHS, strict=True))
        for row in [HEADER, *rows]
    ]
    lines.append(
        "Time is that of the steps; memory is weights, optimiser and activations of one device. "
        + note
    )
    if devices > 1:
        exchanged = max(one.gradient_bytes for one in found)
        lines.append(
            "Devices are assumed to share the work evenly; exchanging up to "
            f"{format_bytes(exchanged)} of gradients in a step is not counted."
        )
    return lines
