"""Pictures that stages leave beside their numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from masktas.artifacts import write_atomic
from masktas.data.batches import Batches
from masktas.nn.distill import MaskedStudent
from masktas.nn.mae import MaskedAutoencoder
from masktas.nn.patches import masking_noise, patchify, random_masking, take, unpatchify
from masktas.seeding import seed_for

CELL = 112  # least side of one image in the picture, pixels
GAP = 4


@torch.no_grad()
def draw_reconstructions(
    path: Path,
    *,
    batches: Batches,
    teacher: MaskedAutoencoder,
    student: MaskedStudent,
    visible: int,
    seed: int,
    count: int = 8,
) -> None:
    """Write a PNG of held-out images: a row each of original, masked, teacher's and student's.

    Predictions are of patches normalised by themselves, so each is shown with the mean and
    variance of the true patch, as MAE's authors do.
    """
    patch_size = teacher.encoder.architecture.patch_size
    images = batches.plain(np.arange(min(count, len(batches.images))))
    patches = patchify(images, patch_size)
    noise = masking_noise(len(images), patches.shape[1], seed_for(seed, "picture"))
    ids_keep, ids_masked = random_masking(noise.to(images.device), visible)
    masked = _fill(patches, ids_masked, torch.zeros_like(take(patches, ids_masked)))
    by_teacher = teacher(patches, ids_keep, ids_masked)
    by_student, _ = student(patches, ids_keep, ids_masked)
    rows = [
        images,
        unpatchify(masked, patch_size, teacher.encoder.architecture.grid),
        *(
            unpatchify(
                _fill(patches, ids_masked, _denormalize(predicted, take(patches, ids_masked))),
                patch_size,
                teacher.encoder.architecture.grid,
            )
            for predicted in (by_teacher, by_student)
        ),
    ]
    sheet = _sheet([[_pixels(image, batches) for image in row] for row in rows])
    write_atomic(path, lambda temporary: sheet.save(temporary, format="png"))


def _fill(patches: Tensor, ids: Tensor, values: Tensor) -> Tensor:
    """Replace the patches `ids` by `values`."""
    index = ids.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
    return patches.scatter(1, index, values.to(patches.dtype))


def _denormalize(predicted: Tensor, true: Tensor) -> Tensor:
    variance, mean = torch.var_mean(true, dim=-1, keepdim=True)
    return predicted.float() * (variance + 1e-6).sqrt() + mean


def _pixels(image: Tensor, batches: Batches) -> np.ndarray:
    """Undo the normalisation of one image `[C, H, W]`: bytes `[H, W, 3]`."""
    std, mean = (
        torch.tensor(v, device=image.device)[:, None, None] for v in (batches.std, batches.mean)
    )
    pixels = ((image * std + mean).clamp(0, 1) * 255).round().byte()
    return pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


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
