"""`masktas predict` and `masktas embed`: use a trained network on images."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from masktas.cli.class_maps import WrittenMap, require_folder, write_maps
from masktas.cli.options import Json, Quiet
from masktas.console import Console
from masktas.errors import ConfigError
from masktas.files import write_atomic, write_text
from masktas.formats import columns, csv_text, shown

if TYPE_CHECKING:
    from masktas.data.sources import Source
    from masktas.predictor import Prediction, Predictor
    from masktas.segment_predictor import SegmentPredictor

NetworkPath = Annotated[
    Path,
    Parameter(
        help="Network: a folder with architecture.json, weights.safetensors and input.json, an "
        "export, or a run folder, which stands for its finetune/main, or else its segment/main."
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
        help="Number of images that are computed at once, or windows of a segmenter (at most 16); "
        "fewer need less memory.",
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
    out: Annotated[
        Path | None,
        Parameter(
            help="Folder for what a segmenter finds: masks/ (PNG with the numbers of the classes "
            "and a palette) and overlays/ (their colours on the image), at the size of the images."
        ),
    ] = None,
    batch_size: BatchSize = 128,
    strict: Strict = False,
    device: Device = "auto",
    root: Root = None,
    image_column: ImageColumn = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Classify images, or segment them."""
    from masktas.segment_predictor import SegmentPredictor

    if csv is not None and csv.is_dir():
        raise ConfigError(f"--csv {csv}: this is a folder: give the name of a file.")
    console = Console(quiet=quiet)
    network = _load(path, device)
    found: Sequence[Prediction | WrittenMap]
    if isinstance(network, SegmentPredictor):
        measure, folder = "share", require_folder(out)
        with _reading(images, "segmenting", console, root, image_column) as (source, advance):
            found = write_maps(
                network,
                source,
                folder,
                top=top,
                batch_size=batch_size,
                strict=strict,
                advance=advance,
            )
    else:
        measure = "probability"
        if out is not None:
            raise ConfigError(
                "--out is a folder for the masks of a segmenter, and this network is none: give "
                "--csv, a file for its predictions."
            )
        network.classes  # noqa: B018  # refused before images are read
        with _reading(images, "predicting", console, root, image_column) as (source, advance):
            found = network.predict(
                source, top=top, batch_size=batch_size, strict=strict, advance=advance
            )
    _warn(console, [(one.name, one.problem) for one in found if one.problem], len(found))
    if csv is not None:
        write_text(csv, _table(found, min(top, len(network.classes)), measure))
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

    from masktas.predictor import load_backbone
    from masktas.train.runtime import Runtime

    if out.suffix != ".npz" or out.is_dir():
        raise ConfigError(f"--out {out}: give the name of an .npz file, such as features.npz.")
    console = Console(quiet=quiet)
    network = load_backbone(path).to(Runtime.choose(device, "fp32").device)
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


def _load(path: Path, device: str) -> Predictor | SegmentPredictor:
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


def _table(found: Sequence[Prediction | WrittenMap], top: int, measure: str) -> str:
    """Return the predictions as CSV; `measure` is what is said of each class."""
    places = range(1, top + 1)
    pairs = [name for place in places for name in (f"class_{place}", f"{measure}_{place}")]
    rows = []
    for one in found:
        cells = [cell for name, value in one.top for cell in (name, f"{value:.6g}")]
        cells += [""] * (len(pairs) - len(cells))
        rows.append([one.name, *cells, one.problem])
    return csv_text(["name", *pairs, "problem"], rows)


def _lines(found: Sequence[Prediction | WrittenMap]) -> list[str]:
    """Return a line for each image that could be read, in columns."""
    rows = [
        [one.name, *(f"{name} {value:.1%}" for name, value in one.top)]
        for one in found
        if not one.problem
    ]
    most = max(map(len, rows), default=0)  # in an image there may be fewer classes
    return columns([[*row, *[""] * (most - len(row))] for row in rows])
