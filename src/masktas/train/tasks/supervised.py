"""The training of the supervised supernet: weight sharing by labels, as AutoFormer's (SPEC 9)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from masktas.data.augment import to_device
from masktas.data.batches import Batches
from masktas.nn.supervised import SupervisedSupernet
from masktas.space import cost
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe
from masktas.train.tasks.supernet import Sampler, WeightSharing

Labelled = tuple[Tensor, Tensor]


class SupervisedSharing(WeightSharing):
    """`Task`: sampled subnets predict the classes of whole images; nothing is masked.

    Args:
        supernet: with initial weights, on its device.
        batches: the images.
        target: `[n]`, the class of each image of `batches`.
        recipe: optimiser hyperparameters.
        runtime: device and precision.
        draw: samples the architectures of a step.
        seed: of the sampled architectures.
    """

    def __init__(
        self,
        supernet: SupervisedSupernet,
        batches: Batches,
        target: Tensor,
        recipe: OptimRecipe,
        runtime: Runtime,
        *,
        draw: Sampler,
        seed: int,
    ) -> None:
        super().__init__(supernet, batches.batch_size, recipe, draw=draw, seed=seed)
        self._num_classes = supernet.num_classes
        self._batches, self._target, self._runtime = batches, target, runtime

    def inputs(self, step: int, rows: slice) -> Labelled:
        """Return images `[B, C, H, W]` and their classes `[B]`."""
        pixels, numbers = self._batches.train(step, rows)
        return pixels, to_device(self._target[numbers], pixels.device)

    def losses(self, network: nn.Module, inputs: Labelled) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        pixels, target = inputs
        with self._runtime.autocast():
            logits = network(pixels, recompute=self._runtime.recompute)
        return {"loss": F.cross_entropy(logits.float(), target)}

    def macs(self, step: int) -> int:
        """Count multiply-accumulates per image, forward and backward."""
        return sum(
            cost.training_macs(one, one.num_patches, self._num_classes * one.embed_dim)
            for one in self.sampled(step)
        )
