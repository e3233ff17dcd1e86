"""The input of every AdamW backend: one sampled slice with its gradient, moments and counts."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

BETAS = (0.9, 0.95)
EPS = 1e-8
SETTLED = math.ceil(-54 / math.log2(max(BETAS)))  # from here on 1 - beta^t is 1 in float64 too

Sizes = tuple[int, ...]


class Piece(NamedTuple):
    """One sampled slice with everything its update needs.

    Attributes:
        weight: the slice, a view of the store.
        grad: its gradient, of the same shape.
        exp_avg, exp_avg_sq: moments of the whole parameter.
        step: how often each tile between edges was sampled, `[tiles of dim 0, ...]`, on the CPU.
        edges: for each dimension the sizes a slice can have, ascending.
        lr, decay: learning rate and decoupled weight decay.
    """

    weight: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    edges: tuple[Sizes, ...]
    lr: float
    decay: float
