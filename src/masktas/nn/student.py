"""The student of masked distillation (SPEC 3): network, projection and feature loss.

Shapes: B images of C channels, N units (patches, if all students and the teacher have the same
patch size), V visible, M masked, S = U*U*C numbers of a unit, k*k patches of a unit, D student
width, D_t teacher width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.nn.mae import Decoder
from masktas.nn.patches import take
from masktas.nn.units import units_of
from masktas.nn.vit import ViT, init_linears
from masktas.space import Architecture


class Projection(nn.Module):
    """`M` (8): a two-layer MLP from the student's width to the teacher's."""

    def __init__(self, embed_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, teacher_dim)
        self.fc2 = nn.Linear(teacher_dim, teacher_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, n, D]` to `[B, n, D_t]`."""
        return self.fc2(F.gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


def projection_macs(embed_dim: int, teacher_dim: int) -> int:
    """Count the multiply-accumulates of projecting one token."""
    return embed_dim * teacher_dim + teacher_dim * teacher_dim


@dataclass(frozen=True, slots=True)
class StudentShape:
    """The sizes of a student beyond its architecture.

    Attributes:
        decoder_dim, decoder_depth: of the decoder.
        teacher_dim: `D_t`.
        unit: `U`, side of a unit in pixels, see `masktas.nn.units`.
    """

    decoder_dim: int
    decoder_depth: int
    teacher_dim: int
    unit: int


class MaskedStudent(nn.Module):
    """A ViT with the parts used in training only: decoder `R` and projection `M` (8).

    Its input and output are units; its tokens are of its own patches, unit by unit.
    """

    def __init__(self, architecture: Architecture, shape: StudentShape) -> None:
        super().__init__()
        self.units = units_of(architecture.image_size, shape.unit)
        self.patch_size = architecture.patch_size
        # Masked training has no classifier; costs still include the one of the final network.
        self.encoder = ViT(architecture.replace(num_classes=0))
        self.decoder = Decoder(
            architecture, decoder_dim=shape.decoder_dim, decoder_depth=shape.decoder_depth
        )
        self.projection = Projection(architecture.embed_dim, shape.teacher_dim)

    def forward(
        self,
        units: Tensor,
        ids_keep: Tensor,
        ids_masked: Tensor,
        *,
        pixels: bool = True,
        recompute: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return predicted masked units and teacher tokens (8).

        Args:
            units: `[B, N, S]`, the whole image.
            ids_keep, ids_masked: `[B, V]` and `[B, M]`, indices of units.
            pixels: whether units are predicted; the decoder is left out otherwise.
            recompute: see `run_blocks`.

        Returns:
            `[B, M, S]`, empty without `pixels`, and `[B, V, D_t]`.
        """
        tokens = self.encode(take(units, ids_keep), ids_keep, recompute=recompute)
        predicted = tokens.new_empty(0)
        if pixels:
            predicted = self.reconstruct(tokens, ids_keep, ids_masked, recompute=recompute)
        return predicted, self.project(tokens)

    def encode(self, visible: Tensor, ids_keep: Tensor, *, recompute: bool = False) -> Tensor:
        """Encode visible units `[B, V, S]` to tokens `[B, 1 + V k^2, D]`, the class token first."""
        patches = self.units.cut(visible, self.patch_size)
        ids = self.units.patch_ids(ids_keep, self.patch_size)
        return self.encoder.forward_features(patches, ids, recompute=recompute)

    def reconstruct(
        self, tokens: Tensor, ids_keep: Tensor, ids_masked: Tensor, *, recompute: bool = False
    ) -> Tensor:
        """Predict masked units `[B, M, S]` from tokens `[B, 1 + V k^2, D]` (5, 8)."""
        keep = self.units.patch_ids(ids_keep, self.patch_size)
        masked = self.units.patch_ids(ids_masked, self.patch_size)
        predicted = self.decoder(tokens, keep, masked, recompute=recompute)
        return self.units.join(predicted, self.patch_size)

    def project(self, tokens: Tensor) -> Tensor:
        """Predict the teacher's tokens `[B, V, D_t]` from tokens `[B, 1 + V k^2, D]` (8)."""
        return self.units.means(self.projection(tokens[:, 1:]), self.patch_size)

    def of_units(self, tokens: Tensor) -> Tensor:
        """Return the mean token of each unit, `[B, V, D]`, from tokens `[B, 1 + V k^2, D]`."""
        return self.units.means(tokens[:, 1:], self.patch_size)

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
