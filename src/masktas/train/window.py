"""The losses of the last few steps, which stay on the device until somebody must know them."""

from __future__ import annotations

import torch
from torch import Tensor

from masktas.train.ranks import Ranks


class LossBuffer:
    """The losses of the steps since the last log line, on the device until they are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[int] = []
        self._values: list[Tensor] = []

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Take what a step returned."""
        self.names = list(losses)
        self.steps.append(step)
        self._values.append(torch.stack(list(losses.values())))

    def tensor(self, ranks: Ranks) -> Tensor:
        """Return the losses of the whole job, `[steps, names]`; the first process keeps them."""
        if not self._values:
            return torch.zeros(0, len(self.names), dtype=torch.float64)
        values = ranks.sum(torch.stack(self._values))
        self._values = list(values if ranks.is_first else torch.zeros_like(values))
        return values

    def fill(self, names: list[str], steps: list[int], values: Tensor) -> None:
        """Take back what a checkpoint held."""
        self.names, self.steps, self._values = list(names), list(steps), list(values)
