"""Refinement: a cohort of stand-alone students, distilled in lockstep (SPEC 6.5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from masktas.nn.mae import pixel_loss
from masktas.nn.student import MaskedStudent, StudentShape, feature_loss
from masktas.nn.teachers.teacher import Teacher
from masktas.train.optim.sliced_adamw import adamw
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe
from masktas.train.tasks.distillation import DistilledInputs, Distiller, student_macs
from masktas.train.tasks.mae import MaskedBatches


class CohortDistillation:
    """`Task`: every member learns from the same images, masks and teacher tokens, by itself.

    A member's weights after a step are those that it would have if it were trained alone.

    Args:
        students: by name, with initial weights, on their device. They share no weights.
        shape: of their decoders and projections.
        teacher: frozen, on the same device; it encodes each batch once for all members.
        batches: masked images.
        recipe: optimiser hyperparameters.
        runtime: device and precision.
        pixels: whether pixels are predicted too: loss (9) instead of (11). Otherwise decoders
            are left out and do not change.
        beta: weight of the feature loss in (9).
    """

    def __init__(
        self,
        students: Mapping[str, MaskedStudent],
        shape: StudentShape,
        teacher: Teacher,
        batches: MaskedBatches,
        recipe: OptimRecipe,
        runtime: Runtime,
        *,
        pixels: bool,
        beta: float = 1.0,
    ) -> None:
        self.module = nn.ModuleDict(students).train()
        self.members = tuple(students)
        self.batch_size = batches.batches.batch_size
        self.optimizer = adamw(self.module, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = recipe.schedule(self.optimizer)
        self.pixels, self.beta = pixels, beta
        self._batches = batches
        self._distiller = Distiller(teacher, batches.unit, runtime)
        students_macs = [
            student_macs(
                one.encoder.architecture,
                shape,
                batches.visible,
                pixels=pixels,
                features=beta > 0 or not pixels,
            )
            for one in students.values()
        ]
        self._macs = teacher.macs(batches.visible) + sum(students_macs)

    def networks(self, _: int) -> list[nn.Module]:
        """Return the members, whatever the step."""
        return list(self.module.values())

    def inputs(self, step: int, rows: slice) -> DistilledInputs:
        """Mask the images and encode the visible units by the teacher (7)."""
        return self._distiller.inputs(*self._batches.images(step, rows))

    def losses(self, network: nn.Module, inputs: DistilledInputs) -> dict[str, Tensor]:
        """Return the loss of a member: (11), or (10) + (11) and both parts."""
        predicted, projected = self._distiller.outputs(network, inputs, pixels=self.pixels)
        feature = feature_loss(projected, inputs.target)
        if not self.pixels:
            return {"feature_loss": feature}
        pixel = pixel_loss(predicted, inputs.units, inputs.ids_masked)
        loss = pixel + self.beta * feature if self.beta else pixel  # (9)
        return {"loss": loss, "pixel_loss": pixel, "feature_loss": feature}

    def update(self, _: nn.Module) -> None:
        """Apply AdamW to all members."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def macs(self, _: int) -> int:
        """Count multiply-accumulates per image: the teacher once, and all members."""
        return self._macs

    def about(self, _: int) -> str:
        """Return an empty text: all steps are alike."""
        return ""
