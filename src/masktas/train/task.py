"""What the one loop trains: a task says what a step learns, the loop does everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

from masktas.train.optim.schedule import warmup_cosine

Inputs = TypeVar("Inputs")


@dataclass(frozen=True, slots=True)
class OptimRecipe:
    """How fast to learn.

    Attributes:
        lr: peak learning rate at the batch size at hand (`scaled_lr`).
        weight_decay: decoupled, of matrices only.
        total_steps: of the training.
        warmup_share: share of them in which the rate rises.
    """

    lr: float
    weight_decay: float
    total_steps: int
    warmup_share: float

    def schedule(self, optimizer: torch.optim.Optimizer) -> CosineLRScheduler:
        """Return the schedule of an optimiser."""
        return warmup_cosine(
            optimizer, total_steps=self.total_steps, warmup_share=self.warmup_share
        )


class Task(Protocol[Inputs]):
    """A network in training.

    Everything about a step hangs on its number and the seed, nothing on the steps before or on
    how many processes share it.

    """

    @property
    def module(self) -> nn.Module:
        """What is trained; its state is what a checkpoint holds."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """And its state."""
        ...

    @property
    def schedule(self) -> CosineLRScheduler:
        """Sets the learning rate of a step."""
        ...

    @property
    def batch_size(self) -> int:
        """Images of a step, over all processes."""
        ...

    def networks(self, step: int) -> list[nn.Module]:
        """Return what the step trains; the first one holds every weight of the others."""
        ...

    def inputs(self, step: int, rows: slice) -> Inputs:
        """Return those rows of the step's batch, ready for `losses`."""
        ...

    def losses(self, network: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """Return means over the rows: the first is minimised, the others are watched."""
        ...

    def update(self, network: nn.Module) -> None:
        """Do the optimiser's step with the gradients of the first network, and drop them."""
        ...

    def macs(self, step: int) -> int:
        """Count multiply-accumulates of an image in that step, forward and backward."""
        ...

    def about(self, step: int) -> str:
        """Say what is special about a step, for messages; may be empty."""
        ...
