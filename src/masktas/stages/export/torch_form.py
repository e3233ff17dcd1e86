"""`model.py`: the network in one file that needs PyTorch only, beside `model.safetensors`."""

from __future__ import annotations

import pprint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from masktas.files import write_text
from masktas.stages.export import standalone
from masktas.stages.export.form import Form, Run, Subject, always
from masktas.stages.export.weights import FILES, write_weights

MODEL = "model.py"
BEGIN, END = "# --- this network ---\n", "# --- end of this network ---\n"


def write(subject: Subject, folder: Path) -> None:
    """Write the file and the weights that it reads."""
    write_weights(subject, folder)
    write_text(folder / MODEL, source_of(subject))


def source_of(subject: Subject) -> str:
    """Return `standalone.py` with the shape and the input of a network."""
    template = Path(standalone.__file__).read_text(encoding="utf-8")
    before, rest = template.split(BEGIN)
    after = rest.split(END)[1]
    data = f"SHAPE: dict[str, Any] = {_literal(shape_of(subject))}\n"
    data += f"INPUT: dict[str, Any] = {_literal(input_of(subject))}\n"
    return before + data + after


def _literal(value: dict[str, Any]) -> str:
    lines = pprint.pformat(value, width=96, sort_dicts=False, compact=True)
    return "{\n " + lines[1:-1].strip() + ",\n}"


def shape_of(subject: Subject) -> dict[str, Any]:
    """Return what `model.py` builds the network from."""
    one = subject.network.architecture
    return {
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


def input_of(subject: Subject) -> dict[str, Any]:
    """Return what `model.py` prepares images by."""
    seen = subject.seen
    return {
        "stored_size": seen.stored_size,
        "mean": list(seen.mean),
        "std": list(seen.std),
        "classes": None if seen.classes is None else list(seen.classes),
    }


def open_(folder: Path) -> Run:
    """Import the written file and load the network by it."""
    spec = spec_from_file_location("masktas_exported_model", folder / MODEL)
    assert spec is not None
    assert spec.loader is not None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Run = module.load(folder)
    return made


FORM = Form("torch", (MODEL, *FILES), True, always, write, open_)
