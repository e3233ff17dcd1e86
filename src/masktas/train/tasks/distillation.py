"""Masked distillation of one step, shared by the supernet and by a cohort (SPEC 3, 7 to 11)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from masktas.nn.mae import decoder_macs
from masktas.nn.patches import patchify
from masktas.nn.student import StudentShape, projection_macs
from masktas.nn.teachers.teacher import Teacher
from masktas.nn.units import units_of
from masktas.space import Architecture, cost
from masktas.train.runtime import Runtime


@dataclass(frozen=True, slots=True)
class DistilledInputs:
    """Units `[B, N, S]`, indices of visible and masked ones, and the teacher's tokens of them."""

    units: Tensor
    ids_keep: Tensor
    ids_masked: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Distiller:
    """Shows the same masked images to the teacher and to students.

    Attributes:
        teacher: frozen.
        unit: side of a unit.
        runtime: device and precision.
    """

    teacher: Teacher
    unit: int
    runtime: Runtime

    def inputs(self, images: Tensor, ids_keep: Tensor, ids_masked: Tensor) -> DistilledInputs:
        """Encode the visible units of images `[B, C, H, W]` by the teacher (7)."""
        with self.runtime.autocast():
            target = self.teacher(images, ids_keep)
        units = patchify(images, self.unit)
        return DistilledInputs(units, ids_keep, ids_masked, target)

    def outputs(
        self, student: nn.Module, inputs: DistilledInputs, *, pixels: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return a student's predicted masked units `[B, M, S]` and teacher tokens (8).

        Without `pixels` the decoder is left out, and the first is empty.
        """
        with self.runtime.autocast():
            predicted, projected = student(
                inputs.units,
                inputs.ids_keep,
                inputs.ids_masked,
                pixels=pixels,
                recompute=self.runtime.recompute,
            )
        return predicted, projected


def student_macs(
    one: Architecture,
    shape: StudentShape,
    visible: int,
    *,
    pixels: bool = True,
    features: bool = True,
    backward: bool = True,
) -> int:
    """Count multiply-accumulates of a student for one image, forward and backward.

    Args:
        one: of the student.
        shape: of its decoder and projection.
        visible: number of visible units.
        pixels: whether pixels are predicted.
        features: whether the projection is trained; it is only evaluated otherwise.
        backward: whether the student is trained; it is only evaluated otherwise.
    """
    visible = units_of(one.image_size, shape.unit).num_patches(visible, one.patch_size)
    decoder = decoder_macs(
        one, visible, decoder_dim=shape.decoder_dim, decoder_depth=shape.decoder_depth
    )
    projection = visible * projection_macs(one.embed_dim, shape.teacher_dim)
    more = decoder * pixels + projection
    if not backward:
        return cost.encoder_macs(one, visible) + more
    return cost.training_macs(one, visible, more) - (0 if features else 2 * projection)
