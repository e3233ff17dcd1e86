"""Fine-tuning: a classifier with labels (SPEC 5 and 7).

Shapes: B images, C channels, K classes, L blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.data.augment import to_device
from masktas.data.batches import Batches
from masktas.data.mix import Mixed
from masktas.nn.segmenter import Segmenter
from masktas.nn.vit import ViT, stochastic_depth
from masktas.seeding import seed_for
from masktas.space import cost
from masktas.train.average import AveragedNetwork
from masktas.train.optim.layer_decay import layer_groups
from masktas.train.optim.slices import BETAS, EPS
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe

Labelled = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class ClassifierRecipe(OptimRecipe):
    """Optimiser hyperparameters of a classifier.

    Attributes:
        optimizer: AdamW, or SGD with momentum.
        momentum: of SGD.
        nesterov: whether it is Nesterov's.
        beta2: of AdamW.
        layer_decay: see `layer_groups`.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    beta2: float = BETAS[1]
    layer_decay: float = 1.0

    def build(self, network: ViT | Segmenter) -> torch.optim.Optimizer:
        """Return the optimiser of a network's trained parameters."""
        groups = layer_groups(network, weight_decay=self.weight_decay, layer_decay=self.layer_decay)
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov
            )
        return torch.optim.AdamW(
            groups, lr=self.lr, betas=(BETAS[0], self.beta2), eps=EPS, fused=True
        )


class Classification:
    """`Task`: predict the class of an image.

    Args:
        network: with initial weights, on its device.
        batches: the images.
        target: `[n]`, the class of each image of `batches`.
        recipe: optimiser hyperparameters.
        runtime: device and precision.
        drop_path: probability of dropping the last block, see `stochastic_depth`.
        label_smoothing: share of the target spread over all classes.
        ema: decay of the moving average of the weights; 0 for none.
        freeze: whether only the head is trained.
        seed: of stochastic depth.
        ranks: the processes that share each batch.

    Attributes:
        evaluated: the network that results: that of the averaged weights if there are any.
    """

    def __init__(
        self,
        network: ViT,
        batches: Batches,
        target: Tensor,
        recipe: ClassifierRecipe,
        runtime: Runtime,
        *,
        drop_path: float,
        label_smoothing: float,
        ema: float = 0.0,
        freeze: bool = False,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        network.train()
        if freeze:
            network.requires_grad_(False)
            assert network.head is not None
            network.head.requires_grad_(True)
        self._average = AveragedNetwork(network, ema) if ema else None
        if self._average is None:
            self.module: nn.Module = network
            self.evaluated: ViT = network
        else:
            self.module, self.evaluated = self._average, self._average.average
        self.members: tuple[str, ...] = ()
        self.batch_size = batches.batch_size
        self.optimizer = recipe.build(network)
        self.schedule = recipe.schedule(self.optimizer)
        self.drop_path, self.label_smoothing = drop_path, label_smoothing
        self._network = ranks.wrap(network)
        self._architecture, self._freeze = network.architecture, freeze
        self._mixes = bool(batches.augment.mixup or batches.augment.cutmix)
        self._batches, self._target, self._runtime, self._seed = batches, target, runtime, seed

    def networks(self, _: int) -> list[nn.Module]:
        """Return the one network, whatever the step."""
        return [self._network]

    def inputs(self, step: int, rows: slice) -> Labelled:
        """Return images `[B, C, H, W]`, their target and branch scales `[L, 2, B]`.

        The target is the class of each image `[B]`, or shares of the classes `[B, K]` where images
        are mixed.
        """
        mixed = self._batches.mixed(step, rows)
        branches = stochastic_depth(
            self._architecture.depth,
            self.drop_path,
            self.batch_size,
            seed_for(self._seed, "drop", step),
        )
        device = mixed.pixels.device
        target = self._shares(mixed) if self._mixes else self._target[mixed.numbers]
        return mixed.pixels, to_device(target, device), to_device(branches[..., rows], device)

    def _shares(self, mixed: Mixed) -> Tensor:
        """Return the share of each class in each image, `[B, K]`."""
        classes = cost.counted_classes(self._architecture)
        own, other = (
            F.one_hot(self._target[numbers], classes) for numbers in (mixed.numbers, mixed.partners)
        )
        share = torch.as_tensor(mixed.share).cpu()[:, None]
        return own * share + other * (1 - share)

    def losses(self, network: nn.Module, inputs: Labelled) -> dict[str, Tensor]:
        """Return the cross-entropy.

        Smoothing shares of mixed classes is the same as mixing smoothed ones, as timm does.
        """
        pixels, target, branches = inputs
        with self._runtime.autocast():
            logits = network(
                pixels, branches if self.drop_path else None, recompute=self._runtime.recompute
            )
        smoothing = self.label_smoothing
        return {"loss": F.cross_entropy(logits.float(), target, label_smoothing=smoothing)}

    def update(self, _: nn.Module) -> None:
        """Apply the optimiser, then average the weights."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update()

    def macs(self, _: int) -> int:
        """Count multiply-accumulates per image, the same in every step."""
        one = self._architecture
        head = cost.counted_classes(one) * one.embed_dim
        if self._freeze:  # the head's backward pass has one product, for its weights
            return cost.encoder_macs(one, one.num_patches) + 2 * head
        return cost.training_macs(one, one.num_patches, head)

    def about(self, _: int) -> str:
        """Return an empty text: all steps are alike."""
        return ""
