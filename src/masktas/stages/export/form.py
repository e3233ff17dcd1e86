"""What a form of export is, and what is exported.

Shapes: B images, C channels, H x W pixels (of `stored_size` before, of `image_size` after they are
prepared), K outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from masktas.errors import ConfigError
from masktas.nn.segmenter import Segmenter
from masktas.nn.vit import ViT
from masktas.predictor import Predictor
from masktas.segment_predictor import SegmentPredictor
from masktas.space import Architecture
from masktas.train.input import NetworkInput
from masktas.train.segmenters import SegmenterFacts

# prepared images [B, C, H, W], or decoded ones [B, H, W, C] of bytes -> outputs [B, K], or of a
# segmenter [B, K, H, W]
Run = Callable[[Tensor], Tensor]


PIXELS = "logits of pixels"  # what a segmenter computes


class CropSegmenter(nn.Module):
    """A segmenter that returns one tensor, as other programs want it: `[B, K, H, W]` for crops."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of crops `[B, C, H, W]`."""
        logits: Tensor = self.segmenter(images)[0]
        return logits


@dataclass(frozen=True, slots=True)
class Subject:
    """The network that is exported.

    Attributes:
        network: a plain ViT; without a head if it was trained without labels, so that its outputs
            are features. Or a segmenter that returns logits of every pixel.
        seen: how images become its input, and its classes.
        facts: decoder and classes, of a segmenter.
    """

    network: ViT | CropSegmenter
    seen: NetworkInput
    facts: SegmenterFacts | None = None

    @staticmethod
    def of(network: Predictor | SegmentPredictor) -> Subject:
        """Return a loaded network as it is exported.

        Raises:
            ArtifactError: if its folder does not say how images become its input.
        """
        seen, shape = network.seen, network.architecture
        state = network.state_dict()
        if isinstance(network, SegmentPredictor):
            facts = network.facts
            made = Segmenter(ViT(shape), facts.decoder, facts.channels, len(facts.classes))
            made.load_state_dict(state)
            return Subject(CropSegmenter(made).eval().requires_grad_(False), seen, facts)
        if seen.classes is None:  # its head, if it has one, has never been trained
            shape = shape.replace(num_classes=0)
            state = {name: one for name, one in state.items() if not name.startswith("head.")}
        plain = ViT(shape)
        plain.load_state_dict(state)
        return Subject(plain.eval().requires_grad_(False), seen)

    @property
    def segmenter(self) -> Segmenter | None:
        """The segmenter, if it is one."""
        return self.network.segmenter if isinstance(self.network, CropSegmenter) else None

    @property
    def backbone(self) -> ViT:
        """The ViT, without the decoder of a segmenter."""
        return self.network if isinstance(self.network, ViT) else self.network.segmenter.backbone

    @property
    def architecture(self) -> Architecture:
        """Shape of the ViT."""
        return self.backbone.architecture

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names in the order of the logits; None for features."""
        return self.seen.classes if self.facts is None else self.facts.classes

    @property
    def outputs(self) -> str:
        """What it computes: `features`, `logits`, or `logits of pixels`."""
        if self.facts is not None:
            return PIXELS
        return "features" if self.seen.classes is None else "logits"


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a network outside masktas.

    Attributes:
        name: as in `--to`.
        files: that it consists of, relative to the export.
        is_exact: whether it computes in float32, so that its outputs must be the same.
        require: raises ConfigError if this network cannot be written so, or a package is missing.
        write: writes its files into a folder; forms before it may have written some already.
        open: returns the call that runs it from its files, on the CPU.
        takes_pixels: whether it takes decoded images of `stored_size`, and prepares them itself.
        made_from: the float32 form that it is quantised from, and is no better than.
    """

    name: str
    files: tuple[str, ...]
    is_exact: bool
    require: Callable[[Subject], None]
    write: Callable[[Subject, Path], None]
    open: Callable[[Path], Run]
    takes_pixels: bool = False
    made_from: Form | None = None


def always(subject: Subject) -> None:
    """Refuse nothing: the form needs no package beyond masktas' own."""


def no_segmenter(name: str, why: str) -> Callable[[Subject], None]:
    """Return a `require` that refuses segmenters, with the reason."""

    def require(subject: Subject) -> None:
        if subject.facts is not None:
            raise ConfigError(
                f"The network cannot be exported as {name}: it is a segmenter, and {why}. Leave "
                f"{name} out of --to."
            )

    return require
