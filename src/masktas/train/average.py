"""A moving average of weights (EMA), as timm computes it, beside the network that is trained."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from masktas.nn.vit import ViT


class AveragedNetwork(nn.Module):
    """A network and the moving average of its weights, in one module that checkpoints hold.

    The decay rises with the number of updates `u` as `min(decay, 1 - u^(-2/3))`, timm's warm-up: a
    short training is averaged too, and the average does not keep the weights of the start.

    Args:
        network: on its device, with initial weights.
        decay: of the average, in (0, 1).
    """

    updates: Tensor

    def __init__(self, network: ViT, decay: float) -> None:
        super().__init__()
        self.network = network
        self._average = ModelEmaV3(network, decay=decay, use_warmup=True)
        self._average.requires_grad_(False)
        # on the CPU: reading it never waits for a device
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device="cpu"))

    @property
    def average(self) -> ViT:
        """The network of the averaged weights."""
        average: ViT = self._average.module
        return average

    def forward(
        self, images: Tensor, branches: Tensor | None = None, *, recompute: bool = False
    ) -> Tensor:
        """Return the logits of the network that is trained."""
        return self.network(images, branches, recompute=recompute)  # type: ignore[no-any-return]

    def update(self) -> None:
        """Average the weights that the last step has made."""
        self.updates += 1
        self._average.update(self.network, step=int(self.updates))
