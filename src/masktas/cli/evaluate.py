"""`masktas evaluate`: how good a network is on labelled images."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from masktas.cli.options import Json, Overwrite, Quiet
from masktas.cli.predict import Device, ImageColumn, NetworkPath, Root, Strict
from masktas.config import DataSettings, EvaluateSettings, RuntimeSettings, resolve
from masktas.console import Console
from masktas.formats import format_speed, shown


def evaluate(
    path: NetworkPath,
    data: Annotated[
        str | None,
        Parameter(
            help="Labelled images, or images with masks for a segmenter. By default the test split "
            "of the network's run."
        ),
    ] = None,
    /,
    *,
    out: Annotated[
        Path | None,
        Parameter(help="Folder for the results. By default evaluate/NAME of the network's run."),
    ] = None,
    name: Annotated[
        str | None,
        Parameter(
            help="Name of the evaluation in the run. By default made from network, split and DATA."
        ),
    ] = None,
    options: Annotated[EvaluateSettings | None, Parameter(name="*", group="Evaluation")] = None,
    label_column: Annotated[
        str | None,
        Parameter(
            group="Images", help="Column of a table that holds the labels. By default it is found."
        ),
    ] = None,
    image_column: ImageColumn = None,
    root: Root = None,
    strict: Strict = False,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Parameter(
            group="Machine",
            help="Precision of matrix products: auto is bf16 on CUDA, and on a CPU what training "
            "is measured to be faster in.",
        ),
    ] = "auto",
    seed: Annotated[int, Parameter(group="Machine", help="Seed of the linear probe.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Evaluate a network with labels."""
    from masktas.stages.evaluate.stage import evaluate as stage

    columns = {"label_column": label_column, "image_column": image_column, "root": root}
    given = {key: value for key, value in columns.items() if value is not None}
    machine = {"strict": strict, "device": device, "precision": precision, "seed": seed}
    manifest = stage(
        path,
        data,
        out=out,
        name=name,
        settings=resolve(EvaluateSettings, options),
        data_settings=resolve(DataSettings, given),
        runtime=resolve(RuntimeSettings, machine),
        console=Console(quiet=quiet),
        overwrite=overwrite,
    )
    if json:
        print(json_module.dumps(manifest, indent=2))
        return
    for line in _lines(manifest["outcome"]):
        print(shown(line))


def _lines(found: dict[str, Any]) -> list[str]:
    """Return what was found, for a person."""
    if "miou" in found:
        return [
            f"mIoU {found['miou']:.2%}, pixel accuracy {found['pixel_accuracy']:.2%}, mean class "
            f"accuracy {found['class_accuracy']:.2%} on {found['num_images']:,} images "
            f"({format_speed(found['images_per_second'])} images/s)",
            "Every class of the network occurs in the masks."
            if not found["absent"]
            else f"Classes that do not occur in the masks, left out of the means: "
            f"{', '.join(found['absent'])}",
        ]
    if "knn" in found:
        linear, knn = found["linear"], found["knn"]
        return [
            f"Linear probe: top-1 {linear['top1']:.2%}, mean per class "
            f"{linear['mean_per_class']:.2%} (learning rate {linear['lr']:g}, chosen on held-out "
            "labelled images)",
            f"20 nearest neighbours: top-1 {knn['top1']:.2%}, mean per class "
            f"{knn['mean_per_class']:.2%}",
            f"{found['num_learnt']:,} labelled images to learn from, {found['num_images']:,} to "
            "test on.",
            found["caveat"],
        ]
    return [
        f"Top-1 {found['top1']:.2%}, top-5 {found['top5']:.2%}, mean per class "
        f"{found['mean_per_class']:.2%} on {found['num_images']:,} images "
        f"({format_speed(found['images_per_second'])} images/s)",
        f"Expected calibration error {found['calibration_error']:.4f} (15 bins of equal width)",
    ]
