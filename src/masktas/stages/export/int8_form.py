"""`onnx/model_int8.onnx`: 8-bit weights, quantised for each channel; activations when it runs."""

from __future__ import annotations

from pathlib import Path

from masktas.files import write_atomic
from masktas.measure.quantize import quantize_dynamic
from masktas.stages.export import onnx_form
from masktas.stages.export.form import Form, Subject
from masktas.stages.export.onnx_form import ONNX, opener, require

INT8 = "onnx/model_int8.onnx"


def form(*, takes_pixels: bool = False) -> Form:
    """Return the form, which prepares images itself if it takes pixels."""

    def write(subject: Subject, folder: Path) -> None:
        source = float_file(subject, folder, takes_pixels=takes_pixels)
        write_atomic(folder / INT8, lambda to: quantize_dynamic(source, to))

    source = onnx_form.form(takes_pixels=takes_pixels)
    return Form("onnx-int8", (INT8,), False, require, write, opener(INT8), takes_pixels, source)


def float_file(subject: Subject, folder: Path, *, takes_pixels: bool) -> Path:
    """Return the float32 file, which is written if it is not there."""
    if not (folder / ONNX).exists():
        onnx_form.write(subject, folder, takes_pixels=takes_pixels)
    return folder / ONNX
