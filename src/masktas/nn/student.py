"""Masked distillation (SPEC 3): the student that is trained, and what it is asked for.

Shapes: B images of C channels, V visible patches, M masked, S numbers of a patch, D student
width, D_t teacher width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.nn.mae import Decoder
from masktas.nn.patches import take, visible_patches
from masktas.nn.teachers.adapter import InputAdapter
from masktas.nn.vit import ViT, init_linears
from masktas.space import Architecture, cost


class Answers(Protocol):
    """What a rating wants of a teacher: tokens of patches."""

    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Return tokens `[B, V, D_t]`; see `Teacher`."""
        ...

    def with_class_token(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Return tokens `[B, 1 + V, D_t]`; see `Teacher`."""
        ...


class AskedOnce:
    """A teacher that several ratings ask about the same images: it answers the first and repeats.

    Args:
        teacher: frozen.
    """

    def __init__(self, teacher: Answers) -> None:
        self._teacher = teacher
        self._asked: tuple[Tensor, Tensor] | None = None
        self._said: dict[bool, Tensor] = {}

    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches (7); see `Teacher`."""
        return self._answer(images, ids_keep, class_token=False)

    def with_class_token(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches (7), the class token first."""
        return self._answer(images, ids_keep, class_token=True)

    def _answer(self, images: Tensor, ids_keep: Tensor, *, class_token: bool) -> Tensor:
        if self._asked is None or self._asked[0] is not images or self._asked[1] is not ids_keep:
            self._asked, self._said = (images, ids_keep), {}
        if class_token not in self._said:
            ask = self._teacher.with_class_token if class_token else self._teacher
            self._said[class_token] = ask(images, ids_keep)
        return self._said[class_token]


class Teacher(Protocol):
    """Anything that turns visible patches of images into tokens, and never changes.

    It is asked with the student's images, not with patches cut from them: it may cut other
    patches, as long as there are as many, and see images in another size or normalisation.
    """

    @property
    def embed_dim(self) -> int:
        """`D_t`, the width of its tokens."""
        ...

    @property
    def num_params(self) -> int:
        """Numbers it holds in memory; 0 where that is not known."""
        ...

    @property
    def has_class_token(self) -> bool:
        """Whether `with_class_token` can be asked."""
        ...

    def macs(self, visible: int) -> int:
        """Count the multiply-accumulates of encoding `visible` patches of one image."""
        ...

    def to(self, device: torch.device) -> Teacher:
        """Move to a device; returns itself."""
        ...

    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode the patches `ids_keep [B, V]` of images `[B, C, H, W]` as the student sees them.

        Returns:
            Tokens `[B, V, D_t]`, without a class token, without gradient.
        """
        ...

    def with_class_token(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Return the same tokens with a class token before them, `[B, 1 + V, D_t]`.

        Raises:
            ConfigError: if the teacher has none.
        """
        ...


class EncoderTeacher:
    """A frozen ViT as a teacher: the encoder of a masked autoencoder.

    Args:
        encoder: the ViT.
        view: how it sees the student's images; None where it sees them as they are.
    """

    def __init__(self, encoder: ViT, view: InputAdapter | None = None) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.view = view

    @property
    def embed_dim(self) -> int:
        """`D_t`."""
        return self.encoder.architecture.embed_dim

    @property
    def depth(self) -> int:
        """Blocks."""
        return self.encoder.architecture.depth

    @property
    def has_class_token(self) -> bool:
        """Every one of ours has."""
        return True

    @property
    def num_params(self) -> int:
        """Numbers of the ViT."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())

    def macs(self, visible: int) -> int:
        """Count in closed form."""
        return cost.encoder_macs(self.encoder.architecture, visible)

    def to(self, device: torch.device) -> EncoderTeacher:
        """Move to a device."""
        self.encoder.to(device)
        if self.view is not None:
            self.view.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches (7); see `Teacher`."""
        return self.with_class_token(images, ids_keep)[:, 1:]

    @torch.no_grad()
    def with_class_token(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches (7), the class token first."""
        seen = images if self.view is None else self.view(images)
        visible = visible_patches(seen, self.encoder.architecture.patch_size, ids_keep)
        return self.encoder.forward_features(visible, ids_keep)


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
    """What a student needs beyond its architecture: decoder and teacher width."""

    decoder_dim: int
    decoder_depth: int
    teacher_dim: int


class MaskedStudent(nn.Module):
    """A ViT with what serves its training only: decoder `R` and projection `M` (8)."""

    def __init__(self, architecture: Architecture, shape: StudentShape) -> None:
        super().__init__()
        # A head has no part in masked training; cost still counts the one to come.
        self.encoder = ViT(architecture.replace(num_classes=0))
        self.decoder = Decoder(
            architecture, decoder_dim=shape.decoder_dim, decoder_depth=shape.decoder_depth
        )
        self.projection = Projection(architecture.embed_dim, shape.teacher_dim)

    def forward(
        self, patches: Tensor, ids_keep: Tensor, ids_masked: Tensor, *, recompute: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the predicted masked patches `[B, M, S]` and teacher tokens `[B, V, D_t]` (8)."""
        visible = take(patches, ids_keep)
        tokens = self.encoder.forward_features(visible, ids_keep, recompute=recompute)
        predicted = self.decoder(tokens, ids_keep, ids_masked, recompute=recompute)
        return predicted, self.projection(tokens[:, 1:])

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw starting weights."""
        self.encoder.init_weights(generator)
        self.decoder.init_weights(generator)
        init_linears(self.projection, generator)


def feature_loss(projected: Tensor, target: Tensor) -> Tensor:
    """`L_pre` (11): smooth L1 between tokens `[B, V, D_t]`, both normalised, no affine terms."""
    return F.smooth_l1_loss(*_normalised(projected, target))


def feature_losses(projected: Tensor, target: Tensor) -> Tensor:
    """`L_pre` (11) of each image by itself, `[B]`; their mean is `feature_loss`."""
    return F.smooth_l1_loss(*_normalised(projected, target), reduction="none").mean(dim=(1, 2))


def _normalised(projected: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    width = (target.shape[-1],)
    return F.layer_norm(projected.float(), width), F.layer_norm(target.float(), width)
