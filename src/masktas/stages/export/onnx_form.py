"""`onnx/model.onnx`: for batches of any size, its input and outputs described in its metadata.

With `--bake-preprocess` its input is decoded images `[B, H, W, C]` of bytes, which the graph crops
and normalises.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from masktas.data.augment import center_boxes, normalize
from masktas.errors import require_extra
from masktas.files import write_atomic
from masktas.measure.engines import INPUT, export_onnx, images_for, onnx_session
from masktas.stages.export.form import Form, Run, Subject
from masktas.train.input import STEPS, NetworkInput

ONNX = "onnx/model.onnx"
EXTRA = "onnx"
STEPS_IN_FILES = 4  # of STEPS: what is left to do where the graph crops and normalises
WINDOW_STEPS = (  # of a segmenter; the last is in the file where the graph normalises
    "make bytes of larger values: white, or the maximum of their type, becomes 255",
    "turn the image upright by its EXIF orientation",
    "put transparency on white; convert to in_channels (grey is luminance)",
    "unless short_side is null, scale the shorter side to it (bilinear, antialiased)",
    "cut windows of image_size, at most two thirds of it apart, and average logits where they "
    "overlap; an image below image_size is padded at the right and below",
    "divide by 255, subtract mean, divide by std",
)


def require(subject: Subject) -> None:
    """Raise ConfigError if a package is missing that writes or runs ONNX."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require_extra(package, EXTRA, "Exporting to ONNX")


class FromPixels(nn.Module):
    """A network that crops and normalises decoded images itself, as `NetworkInput.prepare` does.

    Args:
        network: takes prepared images `[B, C, H, W]`.
        seen: how images become its input.
    """

    def __init__(self, network: nn.Module, seen: NetworkInput) -> None:
        super().__init__()
        self.network = network
        self._box = center_boxes(1, seen.stored_size, seen.image_size)[0].tolist()
        self.register_buffer("mean", torch.tensor(seen.mean), persistent=False)
        self.register_buffer("std", torch.tensor(seen.std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the outputs of images `[B, H, W, C]` of bytes."""
        top, left, height, width = self._box
        # numbers first: onnxruntime's quantisation warns of every tensor of bytes within a graph
        cut = images.float()[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        outputs: Tensor = self.network(normalize(cut, mean, std))
        return outputs


def write(subject: Subject, folder: Path, *, takes_pixels: bool) -> None:
    """Write the network with its metadata."""
    network: nn.Module = subject.network
    images = images_for(subject.architecture, 2)
    if takes_pixels:
        network = FromPixels(network, subject.seen).eval()
        images = torch.zeros(2, *subject.seen.decode_spec.shape, dtype=torch.uint8)
    metadata = metadata_of(subject, takes_pixels=takes_pixels)
    write_atomic(
        folder / ONNX,
        lambda to: export_onnx(network, images, to, dynamic_batch=True, metadata=metadata),
    )


def metadata_of(subject: Subject, *, takes_pixels: bool) -> dict[str, str]:
    """Return what a program needs to use the file alone; values are JSON.

    `mean` and `std` are left out where the graph applies them: applied twice, they ruin accuracy.
    """
    seen = subject.seen
    scale = {} if takes_pixels else {"mean": seen.mean, "std": seen.std}
    content: dict[str, Any] = {
        **scale,
        "image_size": seen.image_size,
        "in_channels": seen.in_channels,
        "white": seen.white,
        "input": {
            "dtype": "uint8" if takes_pixels else "float32",
            "layout": "BHWC" if takes_pixels else "BCHW",
            "size": seen.stored_size if takes_pixels else seen.image_size,
        },
        "classes": subject.classes,
        "outputs": subject.outputs,
    }
    if (facts := subject.facts) is not None:
        steps = WINDOW_STEPS[: -1 if takes_pixels else None]
        content |= {"values": facts.values, "short_side": facts.short_side, "steps": steps}
    else:
        steps = STEPS[: STEPS_IN_FILES if takes_pixels else None]
        content |= {"stored_size": seen.stored_size, "steps": steps}
    return {name: json.dumps(value) for name, value in content.items()}


def opener(name: str) -> Callable[[Path], Run]:
    """Return a function that opens the ONNX file of that name in onnxruntime."""

    def open_(folder: Path) -> Run:
        session = onnx_session(folder / name, torch.device("cpu"), None)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

        return run

    return open_


def form(*, takes_pixels: bool = False) -> Form:
    """Return the form, which prepares images itself if it takes pixels."""
    written = partial(write, takes_pixels=takes_pixels)
    return Form("onnx", (ONNX,), True, require, written, opener(ONNX), takes_pixels)
