"""The learning rate: linear warm-up, then a cosine or a line, scaled to the batch size."""

from __future__ import annotations

import torch
from timm.scheduler import CosineLRScheduler, PolyLRScheduler


def warmup_cosine(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_share: float, min_lr: float = 0.0
) -> CosineLRScheduler:
    """Return the schedule: linear from nearly 0, then a cosine to `min_lr` (SPEC 3).

    `schedule.step_update(step)` sets the rate of that step; it depends on the step only.
    """
    warmup = min(round(total_steps * warmup_share), total_steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(2, total_steps - warmup),  # timm warns of 1, which gives the same rates
        lr_min=min_lr,
        warmup_t=warmup,
        warmup_lr_init=1e-6,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def warmup_linear(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_share: float, min_lr: float = 0.0
) -> PolyLRScheduler:
    """Return the schedule of segmentation: linear from nearly 0, then a line to `min_lr` (SPEC 8).

    As `warmup_cosine` otherwise.
    """
    warmup = min(round(total_steps * warmup_share), total_steps - 1)
    return PolyLRScheduler(
        optimizer,
        t_initial=max(2, total_steps - warmup),
        power=1.0,
        lr_min=min_lr,
        warmup_t=warmup,
        warmup_lr_init=1e-6,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def scaled_lr(lr: float, batch_size: int) -> float:
    """Scale a learning rate given for a batch of 256 to `batch_size`."""
    return lr * batch_size / 256
