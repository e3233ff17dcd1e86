"""Teachers: the protocol, a ViT of this package as a teacher, and how a teacher's input is adapted.

Shapes: B images of C channels, H x W pixels, V visible units (`masktas.nn.units`; patches, if all
students and the teacher have the same patch size), D_t teacher width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.nn.patches import visible_patches
from masktas.nn.units import Units
from masktas.nn.vit import ViT
from masktas.space import Architecture, cost


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The images a network takes.

    Attributes:
        image_size: `(H, W)` in pixels.
        patch_size: side of a patch, in pixels.
        in_channels: C.
        mean, std: of each channel, for pixels between 0 and 1.
    """

    image_size: tuple[int, int]
    patch_size: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, architecture: Architecture, mean: list[float], std: list[float]) -> InputSpec:
        """Return the input of a network of that architecture."""
        size, patch = architecture.image_size, architecture.patch_size
        return cls(size, patch, architecture.in_channels, tuple(mean), tuple(std))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class InputAdapter(nn.Module):
    """Resizes and renormalises a student's images to the input its teacher was trained on.

    Grey images are repeated for every channel of the teacher.

    Args:
        student, teacher: the inputs of both.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, student: InputSpec, teacher: InputSpec) -> None:
        super().__init__()
        self.image_size, self.in_channels = teacher.image_size, teacher.in_channels
        # x_s = (p - mean_s) / std_s and x_t = (p - mean_t) / std_t of the same pixels p
        (mean_s, std_s), (mean_t, std_t) = (
            (torch.tensor(spec.mean).double(), torch.tensor(spec.std).double())
            for spec in (student, teacher)
        )
        self.register_buffer("scale", (std_s / std_t).float()[:, None, None], persistent=False)
        shift = ((mean_s - mean_t) / std_t).float()
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, C, H, W]` of the student to `[B, C_t, H_t, W_t]` of the teacher."""
        if images.shape[-2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bicubic", antialias=True)
        return images * self.scale + self.shift


def adapter_between(student: InputSpec, teacher: InputSpec) -> InputAdapter | None:
    """Return the adapter from a student's input to its teacher's; None if they are equal."""
    same = (student.image_size, student.mean, student.std, student.in_channels) == (
        teacher.image_size,
        teacher.mean,
        teacher.std,
        teacher.in_channels,
    )
    return None if same else InputAdapter(student, teacher)


class Teacher(Protocol):
    """A frozen network that encodes the visible units of images as tokens, one for each.

    It takes the student's images, not patches cut from them: it may use another image size or
    normalisation, as long as its patches tile the units.
    """

    @property
    def embed_dim(self) -> int:
        """`D_t`, the width of its tokens."""
        ...

    @property
    def num_params(self) -> int:
        """Number of parameters; 0 if unknown."""
        ...

    @property
    def has_class_token(self) -> bool:
        """Whether `with_class_token` is supported."""
        ...

    def macs(self, visible: int) -> int:
        """Count the multiply-accumulates of encoding `visible` units of one image."""
        ...

    def to(self, device: torch.device) -> Teacher:
        """Move to a device; returns itself."""
        ...

    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode the units `ids_keep [B, V]` of the student's images `[B, C, H, W]`.

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


class UnitTeacher:
    """A teacher with several patches in a unit: a unit's token is the mean over them (SPEC 6.1).

    Args:
        teacher: encodes patches.
        units: of the student's images.
        patch_size: side of the teacher's patch, in pixels of these images.
    """

    def __init__(self, teacher: Teacher, units: Units, patch_size: int) -> None:
        self.teacher, self.units, self.patch_size = teacher, units, patch_size

    @property
    def embed_dim(self) -> int:
        """`D_t`."""
        return self.teacher.embed_dim

    @property
    def num_params(self) -> int:
        """Number of parameters of the teacher."""
        return self.teacher.num_params

    @property
    def has_class_token(self) -> bool:
        """Whether the teacher has one."""
        return self.teacher.has_class_token

    def macs(self, visible: int) -> int:
        """Count the multiply-accumulates of encoding all patches of `visible` units."""
        return self.teacher.macs(self.units.num_patches(visible, self.patch_size))

    def to(self, device: torch.device) -> UnitTeacher:
        """Move to a device."""
        self.teacher.to(device)
        return self

    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible units; see `Teacher`."""
        tokens = self.teacher(images, self.units.patch_ids(ids_keep, self.patch_size))
        return self.units.means(tokens, self.patch_size)

    def with_class_token(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible units, the class token first."""
        ids = self.units.patch_ids(ids_keep, self.patch_size)
        tokens = self.teacher.with_class_token(images, ids)
        means = self.units.means(tokens[:, 1:], self.patch_size)
        return torch.cat([tokens[:, :1], means], dim=1)


def by_units(teacher: Teacher, units: Units, grid: tuple[int, int]) -> Teacher:
    """Return a teacher of units from one that sees images as a grid of patches."""
    k = grid[0] // units.grid[0]
    return teacher if k == 1 else UnitTeacher(teacher, units, units.size // k)


class EncoderTeacher:
    """A teacher that is a frozen ViT, the encoder of a masked autoencoder.

    Args:
        encoder: the ViT.
        adapter: adapts the student's images; None if it takes them unchanged.
    """

    def __init__(self, encoder: ViT, adapter: InputAdapter | None = None) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.adapter = adapter

    @property
    def embed_dim(self) -> int:
        """`D_t`."""
        return self.encoder.architecture.embed_dim

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.encoder.architecture.depth

    @property
    def has_class_token(self) -> bool:
        """Always: `ViT` has one."""
        return True

    @property
    def num_params(self) -> int:
        """Number of parameters of the ViT."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())

    def macs(self, visible: int) -> int:
        """Count the multiply-accumulates in closed form."""
        return cost.encoder_macs(self.encoder.architecture, visible)

    def adapted(self, adapter: InputAdapter | None) -> EncoderTeacher:
        """Return the same encoder with another input adapter."""
        return EncoderTeacher(self.encoder, adapter)

    def to(self, device: torch.device) -> EncoderTeacher:
        """Move to a device."""
        self.encoder.to(device)
        if self.adapter is not None:
            self.adapter.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches (7); see `Teacher`."""
        return self.with_class_token(images, ids_keep)[:, 1:]

    @torch.no_grad()
    def with_class_token(self, images: Tensor, ids_keep: Tensor) -> Tensor:
        """Encode visible patches (7), the class token first."""
        seen = images if self.adapter is None else self.adapter(images)
        visible = visible_patches(seen, self.encoder.architecture.patch_size, ids_keep)
        return self.encoder.forward_features(visible, ids_keep)
