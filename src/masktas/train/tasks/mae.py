"""Masked batches, and pre-training of a masked autoencoder (SPEC 2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from masktas.data.augment import to_device
from masktas.data.batches import Batches
from masktas.nn.mae import MaskedAutoencoder, decoder_macs, pixel_loss
from masktas.nn.patches import masking_noise, patchify, random_masking
from masktas.seeding import seed_for
from masktas.space.cost import training_macs
from masktas.train.optim.sliced_adamw import adamw
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe

Masked = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class MaskedBatches:
    """The images of a step as units (`masktas.nn.units`), masked at random.

    Attributes:
        batches: the images.
        unit: side of a unit; of a patch, if there are no others.
        visible: V, number of visible units per image.
        seed: of the masks.
    """

    batches: Batches
    unit: int
    visible: int
    seed: int

    def images(self, step: int, rows: slice) -> Masked:
        """Return images `[B, C, H, W]`, `ids_keep [B, V]` and `ids_masked [B, M]` of these rows."""
        pixels, _ = self.batches.train(step, rows)
        num_units = pixels[0, 0].numel() // self.unit**2
        # drawn for the whole batch, so the masks do not depend on how rows are shared out
        noise = masking_noise(self.batches.batch_size, num_units, seed_for(self.seed, "mask", step))
        ids_keep, ids_masked = random_masking(to_device(noise[rows], pixels.device), self.visible)
        return pixels, ids_keep, ids_masked

    def __call__(self, step: int, rows: slice) -> Masked:
        """Return them as units `[B, N, S]`, `ids_keep [B, V]` and `ids_masked [B, M]`."""
        pixels, ids_keep, ids_masked = self.images(step, rows)
        return patchify(pixels, self.unit), ids_keep, ids_masked


class MaskedAutoencoding:
    """`Task`: predict the masked patches (4, 5, 10).

    Args:
        model: with initial weights, on its device.
        batches: masked images.
        recipe: optimiser hyperparameters.
        runtime: device and precision.
        ranks: the processes that share each batch.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        batches: MaskedBatches,
        recipe: OptimRecipe,
        runtime: Runtime,
        ranks: Ranks = ALONE,
    ) -> None:
        self.module = model
        self.members: tuple[str, ...] = ()
        self.batch_size = batches.batches.batch_size
        self.optimizer = adamw(model, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = recipe.schedule(self.optimizer)
        self._network = ranks.wrap(model)
        self._batches, self._runtime = batches, runtime
        self._macs = training_macs(
            model.encoder.architecture,
            batches.visible,
            decoder_macs(
                model.encoder.architecture,
                batches.visible,
                decoder_dim=model.decoder.dim,
                decoder_depth=len(model.decoder.blocks),
            ),
        )

    def networks(self, _: int) -> list[nn.Module]:
        """Return the one network, whatever the step."""
        return [self._network]

    def inputs(self, step: int, rows: slice) -> Masked:
        """Return masked patches."""
        return self._batches(step, rows)

    def losses(self, network: nn.Module, inputs: Masked) -> dict[str, Tensor]:
        """Return the pixel loss (10)."""
        patches, ids_keep, ids_masked = inputs
        with self._runtime.autocast():
            predicted = network(patches, ids_keep, ids_masked, recompute=self._runtime.recompute)
        return {"pixel_loss": pixel_loss(predicted, patches, ids_masked)}

    def update(self, _: nn.Module) -> None:
        """Apply AdamW."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def macs(self, _: int) -> int:
        """Count multiply-accumulates per image, the same in every step."""
        return self._macs

    def about(self, _: int) -> str:
        """Return an empty text: all steps are alike."""
        return ""
