"""How a teacher sees what its student sees: in its own size, channels and normalisation.

Shapes: B images of C channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.space import Architecture


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a network sees of an image.

    Attributes:
        image_size: `(H, W)` in pixels.
        patch_size: side of the patches it cuts.
        in_channels: C.
        mean, std: of each channel, between 0 and 1, by which pixels are normalised.
    """

    image_size: tuple[int, int]
    patch_size: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, architecture: Architecture, mean: list[float], std: list[float]) -> InputSpec:
        """Return what a network of that architecture sees."""
        size, patch = architecture.image_size, architecture.patch_size
        return cls(size, patch, architecture.in_channels, tuple(mean), tuple(std))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class InputAdapter(nn.Module):
    """Turns normalised images of a student into those its teacher was trained on.

    Grey images are shown to a teacher of several channels in each of them.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, student: InputSpec, teacher: InputSpec) -> None:
        super().__init__()
        self.image_size, self.in_channels = teacher.image_size, teacher.in_channels
        # x_s = (p - mean_s) / std_s and x_t = (p - mean_t) / std_t of the same pixels p
        (mean_s, std_s), (mean_t, std_t) = (
            (torch.tensor(one.mean).double(), torch.tensor(one.std).double())
            for one in (student, teacher)
        )
        self.register_buffer("scale", (std_s / std_t).float()[:, None, None], persistent=False)
        shift = ((mean_s - mean_t) / std_t).float()
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn `[B, C, H, W]` of the student into `[B, C_t, H_t, W_t]` of the teacher."""
        if images.shape[-2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bicubic", antialias=True)
        return images * self.scale + self.shift


def adapter_between(student: InputSpec, teacher: InputSpec) -> InputAdapter | None:
    """Return how a teacher sees a student's images; None where both see the same."""
    same = (student.image_size, student.mean, student.std, student.in_channels) == (
        teacher.image_size,
        teacher.mean,
        teacher.std,
        teacher.in_channels,
    )
    return None if same else InputAdapter(student, teacher)
