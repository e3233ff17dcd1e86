"""`onnx/model_int8_static.onnx`: 8-bit weights and activations, in ranges found on images.

Symmetric signed QDQ, as TensorRT reads it: the inputs of every linear layer in one range, its
weights in one for each channel. Outputs, and the two products within attention, stay in float32:
a symmetric range wastes half of its numbers on attention weights, which are all positive. Weights
have 7 bits, as in `onnx-int8`: on processors without VNNI onnxruntime adds products of 8 bits in
16 bits, which overflow without an error (docs/export.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masktas.errors import ConfigError, require_extra
from masktas.files import write_atomic
from masktas.measure.engines import INPUT
from masktas.measure.quantize import EXTRA, LINEAR, WHAT, keep_metadata, prepared
from masktas.stages.export import onnx_form
from masktas.stages.export.calibration import CalibrationImages
from masktas.stages.export.form import Form, Subject
from masktas.stages.export.int8_form import float_file
from masktas.stages.export.onnx_form import opener
from masktas.stages.export.onnx_form import require as require_onnx

NAME = "onnx-int8-static"
STATIC = "onnx/model_int8_static.onnx"
BATCH = 16


def form(*, images: CalibrationImages | None = None, takes_pixels: bool = False) -> Form:
    """Return the form.

    Args:
        images: that the ranges are found on; without them it cannot be written.
        takes_pixels: whether it prepares images itself.
    """

    def require(subject: Subject) -> None:
        if images is None:
            raise ConfigError(f"{NAME} needs images to find ranges on: give --calibrate IMAGES.")
        require_onnx(subject)

    def write(subject: Subject, folder: Path) -> None:
        assert images is not None
        pixels = images.read(subject.seen, subject.facts)
        given = pixels if takes_pixels else subject.seen.prepare(pixels, torch.device("cpu"))
        source = float_file(subject, folder, takes_pixels=takes_pixels)
        write_atomic(folder / STATIC, lambda to: quantize(source, to, np.asarray(given)))

    source = onnx_form.form(takes_pixels=takes_pixels)
    return Form(NAME, (STATIC,), False, require, write, opener(STATIC), takes_pixels, source)


class _Batches:
    """Hands out batches of images, as onnxruntime asks for them."""

    def __init__(self, images: NDArray[Any]) -> None:
        starts = range(0, len(images), BATCH)
        self._batches: Iterator[NDArray[Any]] = (images[one : one + BATCH] for one in starts)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next batch by the name of the input; None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: np.ascontiguousarray(batch)}


def quantize(source: Path, to: Path, images: NDArray[Any]) -> None:
    """Quantise a float32 ONNX file, with the ranges of images as it takes them."""
    quantization: Any = require_extra("onnxruntime.quantization", EXTRA, WHAT)
    with prepared(source) as ready:
        quantization.quantize_static(
            ready,
            to,
            _Batches(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=LINEAR,
            nodes_to_exclude=_without_weights(ready),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": LINEAR,
            },
        )
    keep_metadata(source, to)


def _without_weights(source: Path) -> list[str]:
    """Return the names of products of two activations."""
    onnx: Any = require_extra("onnx", EXTRA, WHAT)
    graph = onnx.load(source).graph
    weights = {one.name for one in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in LINEAR and weights.isdisjoint(node.input)
    ]
