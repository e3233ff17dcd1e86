"""`onnx/model.onnx`: for batches of any size, its input and outputs described in its metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from masktas.errors import require_extra
from masktas.files import write_atomic
from masktas.measure.engines import INPUT, export_onnx, images_for, onnx_session
from masktas.stages.export.form import Form, Run, Subject
from masktas.train.input import STEPS

ONNX = "onnx/model.onnx"
EXTRA = "onnx"


def require(subject: Subject) -> None:
    """Raise ConfigError if a package is missing that writes or runs ONNX."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require_extra(package, EXTRA, "Exporting to ONNX")


def write(subject: Subject, folder: Path) -> None:
    """Write the network with its metadata."""
    network, metadata = subject.network, metadata_of(subject)
    images = images_for(network.architecture, 2)
    write_atomic(
        folder / ONNX,
        lambda to: export_onnx(network, images, to, dynamic_batch=True, metadata=metadata),
    )


def metadata_of(subject: Subject) -> dict[str, str]:
    """Return what a program needs to use the file alone; values are JSON."""
    seen = subject.seen
    content = {
        "mean": seen.mean,
        "std": seen.std,
        "image_size": seen.image_size,
        "stored_size": seen.stored_size,
        "in_channels": seen.in_channels,
        "steps": STEPS,
        "classes": seen.classes,
        "outputs": "features" if seen.classes is None else "logits",
    }
    return {name: json.dumps(value) for name, value in content.items()}


def opener(name: str) -> Callable[[Path], Run]:
    """Return a function that opens the ONNX file of that name in onnxruntime."""

    def open_(folder: Path) -> Run:
        session = onnx_session(folder / name, torch.device("cpu"), None)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

        return run

    return open_


FORM = Form("onnx", (ONNX,), True, require, write, opener(ONNX))
