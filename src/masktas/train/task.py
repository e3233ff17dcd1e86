"""The task protocol: a task defines networks, losses and update of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from masktas.train.optim.schedule import warmup_cosine

Inputs = TypeVar("Inputs")


@dataclass(frozen=True, slots=True)
class OptimRecipe:
    """Optimiser hyperparameters of a training.

    Attributes:
        lr: peak learning rate, already scaled to the batch size (`scaled_lr`).
        weight_decay: decoupled, of matrices only.
        total_steps: number of steps of the training.
        warmup_share: share of the steps with linear warm-up.
        min_lr: learning rate at the end.
    """

    lr: float
    weight_decay: float
    total_steps: int
    warmup_share: float
    min_lr: float = 0.0

    def schedule(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        """Return the schedule of an optimiser."""
        return warmup_cosine(
            optimizer,
            total_steps=self.total_steps,
            warmup_share=self.warmup_share,
            min_lr=self.min_lr,
        )


class Task(Protocol[Inputs]):
    """What a training loop trains.

    Everything random in a step depends on its number and the seed only, not on earlier steps and
    not on the number of processes.
    """

    @property
    def module(self) -> nn.Module:
        """The trained module; checkpoints hold its state."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser; checkpoints hold its state too."""
        ...

    @property
    def schedule(self) -> Scheduler:
        """The learning rate schedule."""
        ...

    @property
    def batch_size(self) -> int:
        """Number of images per step, over all processes."""
        ...

    @property
    def members(self) -> Sequence[str]:
        """Names of the networks if they share no weights; empty if they share them.

        Networks that share weights are trained by the mean of their losses. Members have a loss,
        a gradient and its clipping each, as if each were trained alone.
        """
        ...

    def networks(self, step: int) -> list[nn.Module]:
        """Return the networks of this step: the members, or networks that share weights.

        Of the latter, the first contains all weights of the others.
        """
        ...

    def inputs(self, step: int, rows: slice) -> Inputs:
        """Return these rows of the step's batch, as input of `losses`."""
        ...

    def losses(self, network: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """Return means over the rows: the first is minimised, the others are only logged."""
        ...

    def update(self, network: nn.Module) -> None:
        """Apply the optimiser to the first network, or to all members, then clear gradients."""
        ...

    def macs(self, step: int) -> int:
        """Count multiply-accumulates per image in this step, forward and backward."""
        ...

    def about(self, step: int) -> str:
        """Return a description of the step for messages, or an empty text."""
        ...
