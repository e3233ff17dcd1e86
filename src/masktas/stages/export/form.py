"""What a form of export is, and what is exported.

Shapes: B images, C channels, H x W pixels (of `stored_size` before, of `image_size` after they are
prepared), K outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from masktas.nn.vit import ViT
from masktas.predictor import Predictor
from masktas.train.input import NetworkInput

# prepared images [B, C, H, W], or decoded ones [B, H, W, C] of bytes -> outputs [B, K]
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Subject:
    """The network that is exported.

    Attributes:
        network: a plain ViT; without a head if it was trained without labels, so that its outputs
            are features.
        seen: how images become its input, and its classes.
    """

    network: ViT
    seen: NetworkInput

    @staticmethod
    def of(network: Predictor) -> Subject:
        """Return a loaded network as it is exported.

        Raises:
            ArtifactError: if its folder does not say how images become its input.
        """
        seen, shape = network.seen, network.architecture
        state = network.state_dict()
        if seen.classes is None:  # its head, if it has one, has never been trained
            shape = shape.replace(num_classes=0)
            state = {name: one for name, one in state.items() if not name.startswith("head.")}
        plain = ViT(shape)
        plain.load_state_dict(state)
        return Subject(plain.eval().requires_grad_(False), seen)


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
    """

    name: str
    files: tuple[str, ...]
    is_exact: bool
    require: Callable[[Subject], None]
    write: Callable[[Subject, Path], None]
    open: Callable[[Path], Run]
    takes_pixels: bool = False


def always(subject: Subject) -> None:
    """Refuse nothing: the form needs no package beyond masktas' own."""
