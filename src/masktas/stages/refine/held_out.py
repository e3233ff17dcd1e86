"""Losses of a cohort on fixed held-out images under fixed masks, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masktas.data.batches import Batches
from masktas.nn.mae import pixel_losses
from masktas.nn.patches import masking_noise, random_masking
from masktas.nn.student import MaskedStudent, StudentShape, feature_losses
from masktas.nn.teachers.teacher import Teacher
from masktas.nn.units import Units
from masktas.seeding import seed_for
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime
from masktas.train.tasks.distillation import Distiller, student_macs

AT_ONCE = 128
FEATURE_LOSS, PIXEL_LOSS = "feature_loss", "pixel_loss"
Numbers = NDArray[np.float64]


class HeldOutLosses:
    """Measures students on the same held-out images and masks after every round.

    Args:
        teacher: frozen; encodes each image once for all students.
        batches: of the split.
        units: what masks are made of.
        visible: V, visible units of an image.
        count: largest number of images.
        seed: draws images and masks.
        runtime: device and precision.
        ranks: the processes that share the images.
    """

    def __init__(
        self,
        teacher: Teacher,
        batches: Batches,
        *,
        units: Units,
        visible: int,
        count: int,
        seed: int,
        runtime: Runtime,
        ranks: Ranks,
    ) -> None:
        self._distiller = Distiller(teacher, units.size, runtime)
        self._batches, self._visible = batches, visible
        self._device, self._ranks = runtime.device, ranks
        rng = np.random.default_rng(seed_for(seed, "refine", "images"))
        chosen = np.sort(rng.permutation(len(batches.images))[:count])
        self.num_images = len(chosen)
        noise = masking_noise(self.num_images, units.total, seed_for(seed, "refine", "mask"))
        rows = np.split(np.arange(self.num_images), range(AT_ONCE, self.num_images, AT_ONCE))
        self._parts = [(part, chosen[part], noise[part]) for part in rows]

    @torch.no_grad()
    def measure(
        self, students: Mapping[str, MaskedStudent], *, pixels: bool
    ) -> dict[str, dict[str, Numbers]]:
        """Return the losses of each image by student and kind: (11), and (10) with `pixels`."""
        kinds = (FEATURE_LOSS, PIXEL_LOSS)[: 1 + pixels]
        table = torch.zeros(len(students), len(kinds), self.num_images, dtype=torch.float64)
        for rows, numbers, noise in self._ranks.mine(self._parts):
            ids = random_masking(noise.to(self._device), self._visible)
            inputs = self._distiller.inputs(self._batches.plain(numbers), *ids)
            for of_student, student in zip(table, students.values(), strict=True):
                predicted, projected = self._distiller.outputs(student, inputs, pixels=pixels)
                of_student[0, rows] = feature_losses(projected, inputs.target).double().cpu()
                if pixels:
                    of_student[1, rows] = (
                        pixel_losses(predicted, inputs.units, inputs.ids_masked).double().cpu()
                    )
        rated: Any = self._ranks.sum(table).numpy()
        return {
            name: dict(zip(kinds, of_student, strict=True))
            for name, of_student in zip(students, rated, strict=True)
        }

    def flops(
        self, students: Mapping[str, MaskedStudent], shape: StudentShape, *, pixels: bool
    ) -> int:
        """Count the operations of `measure`."""
        macs = self._distiller.teacher.macs(self._visible)
        for student in students.values():
            one = student.encoder.architecture
            macs += student_macs(one, shape, self._visible, pixels=pixels, backward=False)
        return 2 * macs * self.num_images


def paired(losses: Numbers, others: Numbers) -> dict[str, float | None]:
    """Return the mean difference of two networks' losses over images, and its standard error."""
    apart = losses - others
    error = float(apart.std(ddof=1) / len(apart) ** 0.5) if len(apart) > 1 else None
    return {"difference": float(apart.mean()), "error": error}
