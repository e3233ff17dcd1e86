"""`onnx/model_int8.onnx`: 8-bit weights, quantised for each channel; activations when it runs.

Signed, and of 7 bits: unsigned weights are slower than float32 in onnxruntime, and sums of 8 bits
overflow on processors without VNNI.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from masktas.errors import require_extra
from masktas.files import write_atomic
from masktas.stages.export import onnx_form
from masktas.stages.export.form import Form, Subject
from masktas.stages.export.onnx_form import EXTRA, ONNX, opener, require

INT8 = "onnx/model_int8.onnx"


def write(subject: Subject, folder: Path) -> None:
    """Quantise the float32 file, which is written first if it is not there."""
    if not (folder / ONNX).exists():
        onnx_form.write(subject, folder)
    write_atomic(folder / INT8, lambda to: quantize(folder / ONNX, to))


def quantize(source: Path, to: Path) -> None:
    """Quantise an ONNX file; its metadata is kept."""
    what = "Exporting to 8 bits"
    quantization: Any = require_extra("onnxruntime.quantization", EXTRA, what)
    pre: Any = require_extra("onnxruntime.quantization.shape_inference", EXTRA, what)
    with tempfile.TemporaryDirectory() as made:
        prepared = Path(made) / "prepared.onnx"
        pre.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_dynamic(
            prepared,
            to,
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )


FORM = Form("onnx-int8", (INT8,), False, require, write, opener(INT8))
