"""Dynamic quantisation of an ONNX file to 8 bits: of exports, and of networks that are measured.

Weights are signed, quantised for each channel, and have 7 bits: unsigned ones are slower than
float32 in onnxruntime, and sums of 8 bits overflow on processors without VNNI (docs/export.md).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masktas.errors import require_extra

EXTRA, WHAT = "onnx", "Quantising to 8 bits"
LINEAR = ["MatMul", "Gemm"]  # what is quantised: a segmenter's convolutions are not


def quantize_dynamic(source: Path, to: Path) -> None:
    """Write a float32 ONNX file in 8 bits, with its metadata."""
    quantization: Any = require_extra("onnxruntime.quantization", EXTRA, WHAT)
    with prepared(source) as ready:
        quantization.quantize_dynamic(
            ready,
            to,
            op_types_to_quantize=LINEAR,
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )
    keep_metadata(source, to)


@contextmanager
def prepared(source: Path) -> Iterator[Path]:
    """Yield a copy of a float32 ONNX file that is ready for quantisation."""
    shapes: Any = require_extra("onnxruntime.quantization.shape_inference", EXTRA, WHAT)
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "prepared.onnx"
        shapes.quant_pre_process(source, path, skip_symbolic_shape=True)
        yield path


def keep_metadata(source: Path, to: Path) -> None:
    """Leave only the metadata of the float32 file in a quantised one.

    onnxruntime adds its own, which is no JSON: programs that read all of it would fail.
    """
    onnx: Any = require_extra("onnx", EXTRA, WHAT)
    kept = {one.key for one in onnx.load(source).metadata_props}
    model = onnx.load(to)
    own = [one for one in model.metadata_props if one.key in kept]
    del model.metadata_props[:]
    model.metadata_props.extend(own)
    onnx.save(model, to)
