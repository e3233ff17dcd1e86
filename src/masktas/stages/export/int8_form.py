"""`onnx/model_int8.onnx`: 8-bit weights, quantised for each channel; activations when it runs.

Signed, and of 7 bits: unsigned weights are slower than float32 in onnxruntime, and sums of 8 bits
overflow on processors without VNNI.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masktas.errors import require_extra
from masktas.files import write_atomic
from masktas.stages.export import onnx_form
from masktas.stages.export.form import Form, Subject
from masktas.stages.export.onnx_form import EXTRA, ONNX, opener, require

INT8 = "onnx/model_int8.onnx"
WHAT = "Exporting to 8 bits"


def form(*, takes_pixels: bool = False) -> Form:
    """Return the form, which prepares images itself if it takes pixels."""

    def write(subject: Subject, folder: Path) -> None:
        with prepared(subject, folder, takes_pixels=takes_pixels) as source:
            write_atomic(folder / INT8, lambda to: quantize(source, to))

    return Form("onnx-int8", (INT8,), False, require, write, opener(INT8), takes_pixels)


@contextmanager
def prepared(subject: Subject, folder: Path, *, takes_pixels: bool) -> Iterator[Path]:
    """Yield the float32 file made ready for quantisation; it is written if it is not there."""
    if not (folder / ONNX).exists():
        onnx_form.write(subject, folder, takes_pixels=takes_pixels)
    shapes: Any = require_extra("onnxruntime.quantization.shape_inference", EXTRA, WHAT)
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "prepared.onnx"
        shapes.quant_pre_process(folder / ONNX, path, skip_symbolic_shape=True)
        yield path


def quantize(source: Path, to: Path) -> None:
    """Quantise a prepared ONNX file; its metadata is kept."""
    quantization: Any = require_extra("onnxruntime.quantization", EXTRA, WHAT)
    quantization.quantize_dynamic(
        source,
        to,
        per_channel=True,
        reduce_range=True,
        weight_type=quantization.QuantType.QInt8,
    )
