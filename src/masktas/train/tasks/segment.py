"""Segmentation: a class for every pixel (SPEC 8).

Shapes: B images, C channels, H x W pixels of a crop, K classes, L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.data.augment import to_device
from masktas.data.joint import JointBatches
from masktas.data.masks import IGNORED
from masktas.nn.segmenter import Segmenter, drop_channels
from masktas.nn.vit import stochastic_depth
from masktas.seeding import seed_for
from masktas.space import cost
from masktas.train.optim.schedule import warmup_linear
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime
from masktas.train.tasks.classify import ClassifierRecipe

AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss
Pixels = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class SegmenterRecipe(ClassifierRecipe):
    """Optimiser hyperparameters of a segmenter: those of a classifier, with a linear schedule."""

    def schedule(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        """Return the schedule of an optimiser."""
        return warmup_linear(
            optimizer,
            total_steps=self.total_steps,
            warmup_share=self.warmup_share,
            min_lr=self.min_lr,
        )


class Segmentation:
    """`Task`: predict the class of every pixel.

    Args:
        network: with initial weights, on its device.
        batches: the images and masks.
        recipe: optimiser hyperparameters.
        runtime: device and precision.
        drop_path: probability of dropping the last block, see `stochastic_depth`.
        decoder_macs: of the decoder, for one image.
        seed: of stochastic depth and dropout.
        ranks: the processes that share each batch.
    """

    def __init__(
        self,
        network: Segmenter,
        batches: JointBatches,
        recipe: SegmenterRecipe,
        runtime: Runtime,
        *,
        drop_path: float,
        decoder_macs: int,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        network.train()
        self.module: nn.Module = network
        self.members: Sequence[str] = ()
        self.batch_size = batches.batch_size
        self.optimizer = recipe.build(network)
        self.schedule = recipe.schedule(self.optimizer)
        self._network = ranks.wrap(network)
        self._architecture, self._dropped = network.architecture, network.dropped
        self._drop_path, self._decoder_macs = drop_path, decoder_macs
        self._batches, self._runtime, self._seed = batches, runtime, seed

    def networks(self, _: int) -> list[nn.Module]:
        """Return the one network, whatever the step."""
        return [self._network]

    def inputs(self, step: int, rows: slice) -> Pixels:
        """Return images `[B, C, H, W]`, classes `[B, H, W]`, branch scales and kept channels."""
        pixels, target = self._batches.train(step, rows)
        branches = stochastic_depth(
            self._architecture.depth,
            self._drop_path,
            self.batch_size,
            seed_for(self._seed, "drop", step),
        )
        kept = drop_channels(self.batch_size, self._dropped, seed_for(self._seed, "dropout", step))
        return (
            pixels,
            target,
            to_device(branches[..., rows], pixels.device),
            to_device(kept[rows], pixels.device),
        )

    def losses(self, network: nn.Module, inputs: Pixels) -> dict[str, Tensor]:
        """Return the cross-entropy; with an auxiliary head, its own with a weight is added.

        It is summed over the pixels that have a class and divided by all pixels, so that the mean
        over a batch does not depend on how it is divided into parts.
        """
        pixels, target, branches, kept = inputs
        with self._runtime.autocast():
            logits = network(
                pixels,
                branches if self._drop_path else None,
                kept,
                recompute=self._runtime.recompute,
            )
        losses = [pixel_cross_entropy(one, target) for one in logits]
        if len(losses) == 1:
            return {"loss": losses[0]}
        total = losses[0] + AUXILIARY_WEIGHT * losses[1]
        return {"loss": total, "pixel_loss": losses[0], "auxiliary_loss": losses[1]}

    def update(self, _: nn.Module) -> None:
        """Apply the optimiser."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def macs(self, _: int) -> int:
        """Count multiply-accumulates per image, the same in every step, without auxiliary head."""
        one = self._architecture
        return cost.training_macs(one, one.num_patches, self._decoder_macs)

    def about(self, _: int) -> str:
        """Return an empty text: all steps are alike."""
        return ""


def pixel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy over all pixels of logits `[B, K, H, W]`.

    Maps made of tokens are stored with their channels last, and so are the logits: a row for each
    pixel is no copy.
    """
    rows = logits.float().movedim(1, -1).flatten(0, 2)
    return F.cross_entropy(rows, target.flatten(), ignore_index=IGNORED, reduction="none").mean()
