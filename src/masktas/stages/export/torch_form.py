"""`model.py`: the network in one file that needs PyTorch only, beside its weights."""

from __future__ import annotations

import pprint
from pathlib import Path
from types import ModuleType
from typing import Any

from masktas.files import write_text
from masktas.nn.segmenter import Linear
from masktas.stages.export import standalone, standalone_segmenter
from masktas.stages.export.form import Form, Run, Subject, always
from masktas.stages.export.weights import FILES, SEGMENTER_FILES, write_weights

MODEL = "model.py"
BEGIN, END = "# --- this network ---\n", "# --- end of this network ---\n"
LAYERS_END = "# --- end of the layers ---\n\n\n"
IMPORTS = "from __future__"  # where they begin


def write(subject: Subject, folder: Path) -> None:
    """Write the file and the weights that it reads."""
    write_weights(subject, folder)
    write_text(folder / MODEL, source_of(subject))


def source_of(subject: Subject) -> str:
    """Return the template of a network with its shape and its input.

    The layers of a segmenter's backbone are those of `standalone.py`, so they replace the import of
    them in `standalone_segmenter.py`.
    """
    before, rest = _text(standalone).split(BEGIN)
    layers, after = rest.split(END)[1].split(LAYERS_END)
    if subject.facts is not None:
        template = _text(standalone_segmenter)
        before = template.split(IMPORTS)[0] + IMPORTS + before.split(IMPORTS)[1]
        after = template.split(END)[1].lstrip("\n")
    data = f"SHAPE: dict[str, Any] = {_literal(shape_of(subject))}\n"
    data += f"INPUT: dict[str, Any] = {_literal(input_of(subject))}\n"
    return before + data + layers + after


def _text(template: ModuleType) -> str:
    assert template.__file__ is not None
    return Path(template.__file__).read_text(encoding="utf-8")


def _literal(value: dict[str, Any]) -> str:
    lines = pprint.pformat(value, width=96, sort_dicts=False, compact=True)
    return "{\n " + lines[1:-1].strip() + ",\n}"


def shape_of(subject: Subject) -> dict[str, Any]:
    """Return what `model.py` builds the network from."""
    one = subject.architecture
    shape: dict[str, Any] = {
        "embed_dim": one.embed_dim,
        "num_heads": list(one.num_heads),
        "mlp_dim": list(one.mlp_dim),
        "head_dim": one.head_dim,
        "image_size": one.image_size,
        "patch_size": one.patch_size,
        "in_channels": one.in_channels,
        "num_classes": one.num_classes or 0,
        "pool": one.pool,
    }
    if (found := subject.segmenter) is not None:
        decoder = found.decoder
        shape["decoder"] = "linear" if isinstance(decoder, Linear) else "upernet"
        shape["channels"] = subject.facts.channels if subject.facts else 0
        shape["maps"] = list(decoder.maps_after(one.depth))
    return shape


def input_of(subject: Subject) -> dict[str, Any]:
    """Return what `model.py` prepares images by."""
    seen, facts = subject.seen, subject.facts
    size: dict[str, Any] = {"stored_size": seen.stored_size}
    if facts is not None:
        size = {"short_side": facts.short_side, "values": list(facts.values)}
    return {
        **size,
        "white": seen.white,
        "mean": list(seen.mean),
        "std": list(seen.std),
        "classes": None if subject.classes is None else list(subject.classes),
    }


def open_(folder: Path) -> Run:
    """Run the written file and load the network by it."""
    path = folder / MODEL
    module: Any = ModuleType("masktas_exported_model")  # an import would leave bytecode beside it
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    made: Run = module.load(folder)
    return made


def form(*, segments: bool = False) -> Form:
    """Return the form, of a segmenter or of another network."""
    files = (MODEL, *(SEGMENTER_FILES if segments else FILES))
    return Form("torch", files, True, always, write, open_)
