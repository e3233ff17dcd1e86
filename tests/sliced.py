"""Stores of weights, slices of them, and trainings of a supernet by `SlicedAdamW`."""

import pytest
import torch
from torch import Tensor, nn

from masktas.nn.mae import pixel_loss
from masktas.nn.patches import unpatchify
from masktas.nn.student import StudentShape, feature_loss
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.optim.sliced_adamw import SlicedAdamW

SHAPE = StudentShape(decoder_dim=32, decoder_depth=1, teacher_dim=20, unit=2)
STATE = ("step", "exp_avg", "exp_avg_sq")
TEACHER = Architecture(
    embed_dim=20, num_heads=(2,), mlp_ratio=(2,), head_dim=10,
    image_size=(8, 12), patch_size=2, num_classes=0,
)  # fmt: skip


both_ways = pytest.mark.usefixtures("way")


def train_step(supernet: Supernet, optimizer: SlicedAdamW, architecture: Architecture, draw):
    """Do one true step of Algorithm 1; `draw` gives patches and masks."""
    teacher = EncoderTeacher(ViT(TEACHER))
    patches, keep, masked = draw
    student = supernet.subnet(architecture)
    predicted, projected = student(patches, keep, masked)
    target = teacher(unpatchify(patches, 2, (4, 6)), keep)
    loss = pixel_loss(predicted, patches, masked) + feature_loss(projected, target)
    loss.backward()
    optimizer.step_slices(dict(student.named_parameters()))


class Store(nn.Module):
    """A tiny store: one matrix and one bias."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=dtype))
        self.bias = nn.Parameter(torch.randn(3, dtype=dtype))


def cut(store: Store, rows: int, columns: int) -> dict[str, Tensor]:
    """Return leading views as leaves."""
    return {
        "weight": store.weight.detach()[:rows, :columns].requires_grad_(True),
        "bias": store.bias.detach()[:rows].requires_grad_(True),
    }
