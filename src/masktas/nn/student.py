"""The student of masked distillation (SPEC 3): network, projection and feature loss.

Shapes: B images of C channels, V visible patches, M masked, S numbers of a patch, D student
width, D_t teacher width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.nn.mae import Decoder
from masktas.nn.patches import take
from masktas.nn.vit import ViT, init_linears
from masktas.space import Architecture


class Projection(nn.Module):
    """`M` (8): a two-layer MLP from the student's width to the teacher's."""

    def __init__(self, embed_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, teacher_dim)
        self.fc2 = nn.Linear(teacher_dim, teacher_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `[B, V, D]` to `[B, V, D_t]`."""
        return self.fc2(F.gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


def projection_macs(embed_dim: int, teacher_dim: int) -> int:
    """Count the multiply-accumulates of projecting one token."""
    return embed_dim * teacher_dim + teacher_dim * teacher_dim


@dataclass(frozen=True, slots=True)
class StudentShape:
    """The sizes of a student beyond its architecture: decoder and teacher width."""

    decoder_dim: int
    decoder_depth: int
    teacher_dim: int


class MaskedStudent(nn.Module):
    """A ViT with the parts used in training only: decoder `R` and projection `M` (8)."""

    def __init__(self, architecture: Architecture, shape: StudentShape) -> None:
        super().__init__()
        # Masked training has no classifier; costs still include the one of the final network.
        self.encoder = ViT(architecture.replace(num_classes=0))
        self.decoder = Decoder(
            architecture, decoder_dim=shape.decoder_dim, decoder_depth=shape.decoder_depth
        )
        self.projection = Projection(architecture.embed_dim, shape.teacher_dim)

    def forward(
        self,
        patches: Tensor,
        ids_keep: Tensor,
        ids_masked: Tensor,
        *,
        pixels: bool = True,
        recompute: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the predicted masked patches `[B, M, S]` and teacher tokens `[B, V, D_t]` (8).

        Without `pixels` the decoder is left out, and the first is empty.
        """
        visible = take(patches, ids_keep)
        tokens = self.encoder.forward_features(visible, ids_keep, recompute=recompute)
        predicted = tokens.new_empty(0)
        if pixels:
            predicted = self.decoder(tokens, ids_keep, ids_masked, recompute=recompute)
        return predicted, self.projection(tokens[:, 1:])

    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise all weights."""
        self.encoder.init_weights(generator)
        self.decoder.init_weights(generator)
        init_linears(self.projection, generator)


def feature_loss(projected: Tensor, target: Tensor) -> Tensor:
    """`L_pre` (11): smooth L1 between tokens `[B, V, D_t]`, both normalised, no affine terms."""
    return F.smooth_l1_loss(*_normalised(projected, target))


def feature_losses(projected: Tensor, target: Tensor) -> Tensor:
    """`L_pre` (11) of each image, `[B]`; their mean is `feature_loss`."""
    return F.smooth_l1_loss(*_normalised(projected, target), reduction="none").mean(dim=(1, 2))


def _normalised(projected: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    width = (target.shape[-1],)
    return F.layer_norm(projected.float(), width), F.layer_norm(target.float(), width)
