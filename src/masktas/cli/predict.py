"""`masktas predict` and `masktas embed`: use a trained network on images."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from masktas.cli.options import Json, Quiet
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.files import write_atomic, write_text
from masktas.formats import columns, csv_text, shown

if TYPE_CHECKING:
    from masktas.data.sources import Source
    from masktas.predictor import Prediction, Predictor

NetworkPath = Annotated[
    Path,
    Parameter(
        help="Network: a folder with architecture.json, weights.safetensors and input.json, an "
        "export, or a run folder, which stands for its finetune/main."
    ),
]
ToRead = Annotated[
    str,
    Parameter(
        help="An image, or images as for other commands: a folder, list, glob, zip, tar or parquet "
        "files, a name (cifar10, hf:owner/name), or an address."
    ),
]
BatchSize = Annotated[
    int,
    Parameter(
        validator=Number(gte=1),
        help="Number of images that are computed at once; fewer need less memory.",
    ),
]
Strict = Annotated[
    bool,
    Parameter(
        negative="",
        show_default=False,
        group="Machine",
        help="Stop at an image that cannot be read, instead of leaving it out.",
    ),
]
Device = Annotated[
    str, Parameter(group="Machine", help="Device to run on: auto, cpu, cuda or cuda:N.")
]
Root = Annotated[
    str | None,
    Parameter(group="Images", help="Folder with torchvision's files, for images such as cifar10."),
]
ImageColumn = Annotated[
    str | None,
    Parameter(
        group="Images", help="Column of a table that holds the images. By default it is found."
    ),
]


def predict(
    path: NetworkPath,
    images: ToRead,
    /,
    *,
    top: Annotated[
        int, Parameter(validator=Number(gte=1), help="Number of classes for each image.")
    ] = 5,
    csv: Annotated[Path | None, Parameter(help="File to write the predictions to, as CSV.")] = None,
    batch_size: BatchSize = 128,
    strict: Strict = False,
    device: Device = "auto",
    root: Root = None,
    image_column: ImageColumn = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Classify images."""
    console = Console(quiet=quiet)
    network = _load(path, device)
    classes = network.classes  # refused before images are read
    with _reading(images, "predicting", console, root, image_column) as (source, advance):
        found = network.predict(
            source, top=top, batch_size=batch_size, strict=strict, advance=advance
        )
    _warn(console, [(one.name, one.problem) for one in found if one.problem], len(found))
    if csv is not None:
        write_text(csv, _table(found, min(top, len(classes))))
    if json:
        print(json_module.dumps([one.to_dict() for one in found], indent=2))
    elif csv is None:
        for line in _lines(found):
            print(shown(line))
    else:
        print(f"{shown(str(csv))}: predictions for {len(found):,} images.")


def embed(
    path: NetworkPath,
    images: ToRead,
    /,
    *,
    out: Annotated[
        Path,
        Parameter(
            help="File to write, features.npz: `features`, a row for each image, and `names`."
        ),
    ],
    batch_size: BatchSize = 128,
    strict: Strict = False,
    device: Device = "auto",
    root: Root = None,
    image_column: ImageColumn = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write the features of images."""
    import numpy as np

    if out.suffix != ".npz" or out.is_dir():
        raise ConfigError(f"--out {out}: give the name of an .npz file, such as features.npz.")
    console = Console(quiet=quiet)
    network = _load(path, device)
    network.seen  # noqa: B018  # refused before images are read
    with _reading(images, "embedding", console, root, image_column) as (source, advance):
        found = network.embed(source, batch_size=batch_size, strict=strict, advance=advance)
    _warn(console, found.problems, len(found.names) + len(found.problems))

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, features=found.values, names=np.array(found.names, dtype=np.str_))

    write_atomic(out, write)
    num, dim = found.values.shape
    if json:
        about = {"out": str(out), "num_images": num, "embed_dim": dim}
        print(json_module.dumps(about | {"num_unreadable": len(found.problems)}, indent=2))
    else:
        print(f"{shown(str(out))}: features of {num:,} images, {dim} numbers each.")


def _load(path: Path, device: str) -> Predictor:
    from masktas.predictor import load
    from masktas.train.runtime import Runtime

    return load(path).to(Runtime.choose(device, "fp32").device)


@contextmanager
def _reading(
    images: str, label: str, console: Console, root: str | None, image_column: str | None
) -> Iterator[tuple[Source, Callable[[int], None]]]:
    """Open the images, and a progress bar for them."""
    from masktas.data.reading import as_source

    source, _ = as_source(images, root=root, image_column=image_column)
    sizes = source.sizes()
    with console.bar(label, None if sizes is None else sum(sizes)) as bar:
        yield source, bar.update


def _warn(console: Console, problems: list[tuple[str, str]], num: int) -> None:
    """Name the first images that could not be read, and count all."""
    from masktas.data.reading import left_out

    if problems:
        console.warn(left_out(problems, num))


def _table(found: list[Prediction], top: int) -> str:
    """Return the predictions as CSV."""
    places = range(1, top + 1)
    pairs = [name for place in places for name in (f"class_{place}", f"probability_{place}")]
    rows = []
    for one in found:
        cells = [cell for name, value in one.top for cell in (name, f"{value:.6g}")]
        rows.append([one.name, *(cells or [""] * len(pairs)), one.problem])
    return csv_text(["name", *pairs, "problem"], rows)


def _lines(found: list[Prediction]) -> list[str]:
    """Return a line for each image that could be read, in columns."""
    rows = [
        [one.name, *(f"{name} {value:.1%}" for name, value in one.top)]
        for one in found
        if not one.problem
    ]
    return columns(rows)
