"""Fine-tuning: a classifier with labels (SPEC 5)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from masktas.data.batches import Batches, to_device
from masktas.nn.vit import ViT, stochastic_depth
from masktas.seeding import seed_for
from masktas.space import cost
from masktas.train.optim.sliced_adamw import adamw
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe

Labelled = tuple[Tensor, Tensor, Tensor]


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
        seed: of stochastic depth.
        ranks: the processes that share each batch.
    """

    def __init__(
        self,
        network: ViT,
        batches: Batches,
        target: Tensor,
        recipe: OptimRecipe,
        runtime: Runtime,
        *,
        drop_path: float,
        label_smoothing: float,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.module = network.train()
        self.members: tuple[str, ...] = ()
        self.batch_size = batches.batch_size
        self.optimizer = adamw(network, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = recipe.schedule(self.optimizer)
        self.drop_path, self.label_smoothing = drop_path, label_smoothing
        self._network = ranks.wrap(network)
        self._architecture = network.architecture
        self._batches, self._target, self._runtime, self._seed = batches, target, runtime, seed

    def networks(self, _: int) -> list[nn.Module]:
        """Return the one network, whatever the step."""
        return [self._network]

    def inputs(self, step: int, rows: slice) -> Labelled:
        """Return images `[B, C, H, W]`, their classes `[B]` and branch scales `[L, 2, B]`."""
        pixels, numbers = self._batches.train(step, rows)
        branches = stochastic_depth(
            self._architecture.depth,
            self.drop_path,
            self.batch_size,
            seed_for(self._seed, "drop", step),
        )
        device = pixels.device
        return (
            pixels,
            to_device(self._target[numbers], device),
            to_device(branches[..., rows], device),
        )

    def losses(self, network: nn.Module, inputs: Labelled) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        pixels, target, branches = inputs
        with self._runtime.autocast():
            logits = network(
                pixels, branches if self.drop_path else None, recompute=self._runtime.recompute
            )
        smoothing = self.label_smoothing
        return {"loss": F.cross_entropy(logits.float(), target, label_smoothing=smoothing)}

    def update(self, _: nn.Module) -> None:
        """Apply AdamW."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def macs(self, _: int) -> int:
        """Count multiply-accumulates per image, the same in every step."""
        one = self._architecture
        head = cost.counted_classes(one) * one.embed_dim
        return cost.training_macs(one, one.num_patches, head)

    def about(self, _: int) -> str:
        """Return an empty text: all steps are alike."""
        return ""
