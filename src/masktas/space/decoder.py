"""Closed-form costs of a segmenter's decoder, `masktas.nn.segmenter` (SPEC 8).

They depend on the backbone's width and grid only, so a budget can count them exactly, as it counts
the patch embedding.

Letters: D width of the backbone, F channels, K classes, h x w grid of patches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from masktas.errors import BudgetError
from masktas.space.architecture import Architecture

DecoderName = Literal["upernet", "linear"]
POOL_SIDES = (1, 2, 3, 6)  # sides of the grids of pyramid pooling
AUXILIARY = 256  # channels of the auxiliary head
_WRITTEN = re.compile(r"(linear)|(upernet):([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder of a segmenter, whatever its backbone is.

    Attributes:
        name: `upernet`, or `linear`: one layer on the last map.
        channels: F, of UperNet.
        num_classes: K.
    """

    name: DecoderName
    channels: int
    num_classes: int

    @staticmethod
    def parse(text: str, num_classes: int) -> Decoder:
        """Read a decoder as settings write it: `linear` or `upernet:CHANNELS`.

        Raises:
            BudgetError: if it is neither.
        """
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise BudgetError(f"{text!r} is not a decoder: write linear or upernet:256 (channels).")
        if match[1]:
            return Decoder("linear", 0, num_classes)
        return Decoder("upernet", int(match[3]), num_classes)

    def params(self, backbone: Architecture) -> int:
        """Count the parameters, with those of the auxiliary head."""
        width, channels, classes = backbone.embed_dim, self.channels, self.num_classes
        if self.name == "linear":
            return _layer(width, classes)
        neck = 3 * _layer(4 * width, width) + 2 * width  # transposed, of 2 x 2; a norm
        pyramid = (len(POOL_SIDES) + 3) * _normed(width, channels)
        joined = _normed(9 * (width + len(POOL_SIDES) * channels), channels)
        fused = 3 * _normed(9 * channels, channels) + _normed(9 * 4 * channels, channels)
        auxiliary = _normed(9 * width, AUXILIARY) + _layer(AUXILIARY, classes)
        norms = 3 * 2 * width
        return norms + neck + pyramid + joined + fused + _layer(channels, classes) + auxiliary

    def macs(self, backbone: Architecture) -> int:
        """Count the multiply-accumulates for one image, as in evaluation: no auxiliary head."""
        width, channels, classes = backbone.embed_dim, self.channels, self.num_classes
        height, breadth = backbone.grid
        places = height * breadth
        if self.name == "linear":
            return places * width * classes
        coarsest = -(-height // 2) * -(-breadth // 2)
        neck = (1 + 4 + 1) * places * 4 * width * width  # to 1/4 of a patch in two steps, to 1/2
        pooled = sum(side * side for side in POOL_SIDES) * width * channels
        joined = coarsest * 9 * (width + len(POOL_SIDES) * channels) * channels
        levels = (16 + 4 + 1) * places * (width + 9 * channels) * channels
        last = 16 * places * (9 * 4 * channels + classes) * channels
        return neck + pooled + joined + levels + last


def _layer(inputs: int, outputs: int) -> int:
    """Count weights and biases."""
    return inputs * outputs + outputs


def _normed(inputs: int, outputs: int) -> int:
    """Count the weights of a convolution without bias, and of its norm."""
    return inputs * outputs + 2 * outputs
