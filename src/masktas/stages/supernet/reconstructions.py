"""Pictures of what teacher and student reconstruct."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from masktas.data.batches import Batches
from masktas.files import write_atomic
from masktas.nn.patches import masking_noise, patchify, random_masking, take, unpatchify
from masktas.nn.student import MaskedStudent
from masktas.nn.units import Units
from masktas.seeding import seed_for
from masktas.stages.common.load import ReconstructingTeacher

CELL = 112  # least side of one image in the picture, pixels
GAP = 4


@torch.no_grad()
def draw_reconstructions(
    path: Path,
    *,
    batches: Batches,
    teacher: ReconstructingTeacher | None,
    student: MaskedStudent,
    visible: int,
    seed: int,
    count: int = 8,
) -> list[str]:
    """Write a PNG of held-out images: rows of original, masked, teacher's and student's images.

    Predicted patches are normalised by their own mean and variance, so each is shown with those
    of the true patch, as MAE's authors do. A teacher without a decoder has no row.

    Returns:
        What the rows show.
    """
    units = student.units
    num = len(batches.images)  # evenly over all: sources list images class by class
    images = batches.plain(np.linspace(0, num - 1, min(count, num)).astype(np.int64))
    cut = patchify(images, units.size)
    noise = masking_noise(len(images), units.total, seed_for(seed, "picture"))
    ids_keep, ids_masked = random_masking(noise.to(images.device), visible)
    masked = _fill(cut, ids_masked, torch.zeros_like(take(cut, ids_masked)))
    predicted, _ = student(cut, ids_keep, ids_masked)
    completed = _fill(cut, ids_masked, _denormalize(predicted, take(cut, ids_masked)))

    def shown(of_units: Tensor) -> list[np.ndarray]:
        return _bytes(unpatchify(of_units, units.size, units.grid), batches.mean, batches.std)

    rows = {"original": _bytes(images, batches.mean, batches.std), "masked": shown(masked)}
    if teacher is not None:
        rows["teacher"] = _reconstructed(teacher, images, units, ids_keep, ids_masked)
    rows["student (largest)"] = shown(completed)
    sheet = _sheet(list(rows.values()))
    write_atomic(path, lambda temporary: sheet.save(temporary, format="png"))
    return list(rows)


def _reconstructed(
    teacher: ReconstructingTeacher,
    images: Tensor,
    units: Units,
    ids_keep: Tensor,
    ids_masked: Tensor,
) -> list[np.ndarray]:
    """Complete images as a teacher does, in its own resolution."""
    sight = teacher.sight
    own = Units(sight.image_size[0] // units.grid[0], units.grid)
    ids_keep, ids_masked = (own.patch_ids(ids, sight.patch_size) for ids in (ids_keep, ids_masked))
    seen = images if teacher.adapter is None else teacher.adapter(images)
    patches = patchify(seen, sight.patch_size)
    predicted = teacher.model(patches, ids_keep, ids_masked)
    if teacher.normalised:
        predicted = _denormalize(predicted, take(patches, ids_masked))
    completed = unpatchify(_fill(patches, ids_masked, predicted), sight.patch_size, sight.grid)
    return _bytes(completed, sight.mean, sight.std)


def _fill(patches: Tensor, ids: Tensor, values: Tensor) -> Tensor:
    """Replace the patches `ids` by `values`."""
    index = ids.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
    return patches.scatter(1, index, values.to(patches.dtype))


def _denormalize(predicted: Tensor, true: Tensor) -> Tensor:
    variance, mean = torch.var_mean(true, dim=-1, keepdim=True)
    return predicted.float() * (variance + 1e-6).sqrt() + mean


def _bytes(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[np.ndarray]:
    """Undo the normalisation of images `[B, C, H, W]`: bytes `[H, W, 3]` of each."""
    by, to = (torch.tensor(v, device=images.device)[:, None, None] for v in (std, mean))
    pixels = ((images * by + to).clamp(0, 1) * 255).round().byte()
    shown = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1]
    return [one.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy() for one in shown]


def _sheet(rows: list[list[np.ndarray]]) -> Image.Image:
    height, width = rows[0][0].shape[:2]
    scale = max(1, -(-CELL // width))
    cell_width, cell_height = width * scale, height * scale
    sheet = Image.new(
        "RGB",
        (len(rows[0]) * (cell_width + GAP) - GAP, len(rows) * (cell_height + GAP) - GAP),
        "white",
    )
    for row, images in enumerate(rows):
        for column, pixels in enumerate(images):
            image = Image.fromarray(pixels).resize(
                (cell_width, cell_height), Image.Resampling.NEAREST
            )
            sheet.paste(image, (column * (cell_width + GAP), row * (cell_height + GAP)))
    return sheet
