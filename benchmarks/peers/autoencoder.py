"""P5: a training step of the masked autoencoder beside MAE's, on images that are ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.config import TeacherSettings
from masktas.config.derived import teacher_for
from masktas.nn.patches import num_visible
from masktas.stages.common.tasks import teacher_architecture
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.task import OptimRecipe
from masktas.train.tasks.mae import MaskedAutoencoding, MaskedBatches
from peers.networks import apart, mae_network, ours_of_mae
from peers.turns import Step
from peers.work import Work, training

RECIPE = OptimRecipe(lr=1e-4, weight_decay=0.05, total_steps=10_000, warmup_share=0.2)


@dataclass(frozen=True)
class Ready:
    """Batches whose images are ready, `pixels [B, C, H, W]`, in place of `Batches`."""

    pixels: Tensor

    @property
    def batch_size(self) -> int:
        """Images of a batch."""
        return len(self.pixels)

    def train(self, _: int, rows: slice) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the images of these rows, and their numbers."""
        return self.pixels[rows], np.arange(len(self.pixels))[rows]


def measure(work: Work) -> dict[str, Any]:
    """Compare, at the teacher's default mask ratio and sizes for the space."""
    assert work.mae is not None
    settings = teacher_for(work.space, TeacherSettings())
    largest = work.space.largest
    shape = teacher_architecture(settings, largest.image_size, largest.in_channels)
    visible = num_visible(shape.num_patches, settings.mask_ratio)
    images = work.images()
    torch.manual_seed(0)
    sizes = {"decoder_dim": settings.decoder_dim, "decoder_depth": settings.decoder_depth}
    network = mae_network(work.mae, shape, **sizes)
    batches = MaskedBatches(Ready(images), shape.patch_size, visible, seed=0)  # type: ignore[arg-type]

    def task(runtime: Runtime) -> MaskedAutoencoding:
        return MaskedAutoencoding(
            ours_of_mae(network, shape.num_heads[0]), batches, RECIPE, runtime
        )

    def ours(runtime: Runtime) -> Step:
        made = task(runtime)
        return lambda number: train_step(made, number, ALONE)

    def theirs(runtime: Runtime) -> Step:
        own = mae_network(work.mae, shape, **sizes)
        return training(own, lambda _: own(images, settings.mask_ratio)[0], runtime)

    flops = 2.0 * work.batch * task(Runtime.choose("cpu", "fp32")).macs(0)
    far = _apart(task(Runtime.choose("cpu", "fp32")), network, images, settings.mask_ratio)
    return work.compared(
        "step of the masked autoencoder", work.contenders(masktas=ours, MAE=theirs),
        lambda _: flops, far=far,
    )  # fmt: skip


@torch.no_grad()
def _apart(task: MaskedAutoencoding, network: Any, images: Tensor, ratio: float) -> float:
    """Return how far the losses of equal networks are apart under the same masks."""
    _, ids_keep, ids_masked = inputs = task.inputs(0, slice(None))
    with mock.patch.object(torch, "rand", return_value=noise_of(ids_keep, ids_masked)):
        loss, _, _ = network(images, ratio)
    return apart(task.losses(task.networks(0)[0], inputs)["pixel_loss"][None], loss[None])


def noise_of(ids_keep: Tensor, ids_masked: Tensor) -> Tensor:
    """Return noise `[B, N]` of which the visible patches have the smallest numbers, in order."""
    order = torch.cat([ids_keep, ids_masked], dim=1)
    return order.argsort(dim=1) / order.shape[1]
