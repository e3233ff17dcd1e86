"""Segmentation measured: sliding windows over whole images, and one matrix over all pixels.

Shapes: C channels, H x W pixels of an image, K classes, w windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from masktas.data.augment import crop
from masktas.data.masks import IGNORED
from masktas.data.segmentation import SegmentationImages
from masktas.nn.segmenter import Segmenter
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime

WINDOWS = 16  # computed at once


@dataclass(frozen=True, slots=True)
class Confusion:
    """Pixels by true and predicted class.

    Attributes:
        counts: `[K, K]`, of the pixels that have a class; rows are true classes.
        loss: mean cross-entropy of these pixels.
    """

    counts: NDArray[np.int64]
    loss: float

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether each class occurs in the masks, `[K]`; the others are left out of means."""
        return np.asarray(self.counts.sum(axis=1) > 0)

    @property
    def ious(self) -> NDArray[np.float64]:
        """Intersection over union of each class, `[K]`; of absent classes it is not a number.

        Ignored pixels are in no union, whatever is predicted there.
        """
        right = np.diag(self.counts)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - right
        return np.where(self.present, right / np.maximum(union, 1), np.nan)

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Share of the pixels of each class that are right, `[K]`; not a number if absent."""
        of_class = self.counts.sum(axis=1)
        return np.where(self.present, np.diag(self.counts) / np.maximum(of_class, 1), np.nan)

    def measures(self) -> dict[str, float]:
        """Return `miou`, `pixel_accuracy`, `class_accuracy` (the mean over classes) and `loss`."""
        right = float(np.diag(self.counts).sum())
        return {
            "miou": float(np.nanmean(self.ious)),
            "pixel_accuracy": right / float(self.counts.sum()),
            "class_accuracy": float(np.nanmean(self.accuracies)),
            "loss": self.loss,
        }

    def per_class(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return IoU, accuracy and share of the pixels of each class that occurs, by its name."""
        shares = self.counts.sum(axis=1) / self.counts.sum()
        rows = zip(names, self.ious, self.accuracies, shares, self.present, strict=True)
        return {
            name: {"iou": float(iou), "accuracy": float(accuracy), "share": float(share)}
            for name, iou, accuracy, share, occurs in rows
            if occurs
        }


@torch.no_grad()
def confusion(
    network: Segmenter,
    images: SegmentationImages,
    *splits: str,
    short_side: int | None,
    runtime: Runtime,
    ranks: Ranks = ALONE,
) -> Confusion:
    """Segment every image of some splits at its own size, and count.

    Args:
        network: the segmenter, on its device.
        images: images and masks.
        splits: which images.
        short_side: shorter side that images are scaled to; logits are scaled back.
        runtime: device and precision.
        ranks: the processes that share the images.
    """
    was_training = network.training
    network.eval()
    classes = len(images.classes.names)
    counts = torch.zeros(classes * classes, dtype=torch.long, device=runtime.device)
    loss = torch.zeros(1, dtype=torch.float64, device=runtime.device)
    mean, std = (torch.tensor(one, device=runtime.device) for one in (images.mean, images.std))
    for row in ranks.mine(images.rows(*splits).tolist()):
        size = images.size(row)
        pixels = torch.from_numpy(images.image(row)).to(runtime.device)[None]
        box = torch.tensor([[0, 0, *size]], device=runtime.device)
        prepared = crop(pixels, box, None, _scaled(size, short_side), mean=mean, std=std)
        logits = slide(network, prepared, runtime)
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        target = torch.from_numpy(images.mask(row).astype(np.int64)).to(runtime.device)
        labelled = target != IGNORED
        predicted = logits[0].argmax(dim=0)
        pair = target[labelled] * classes + predicted[labelled]
        counts += torch.bincount(pair, minlength=classes * classes)
        loss += F.cross_entropy(
            logits, target[None], ignore_index=IGNORED, reduction="sum"
        ).double()
    network.train(was_training)
    ranks.sum(counts), ranks.sum(loss)
    total = max(1, int(counts.sum()))
    return Confusion(counts.view(classes, classes).cpu().numpy(), loss.item() / total)


def slide(network: Segmenter, image: Tensor, runtime: Runtime) -> Tensor:
    """Return logits `[1, K, H, W]` of an image `[1, C, H, W]`: the mean over windows.

    Windows have the size of a crop and lie two thirds of it apart; the last ones end at the edge. A
    smaller image is padded, as in training.
    """
    height, width = network.architecture.image_size
    size = image.shape[2:]
    padded = F.pad(image, (0, max(0, width - size[1]), 0, max(0, height - size[0])))
    tops, lefts = (
        window_starts(whole, side)
        for whole, side in zip(padded.shape[2:], (height, width), strict=True)
    )
    places = [(top, left) for top in tops for left in lefts]
    total: Tensor | None = None
    times = image.new_zeros(padded.shape[2:])
    for at in range(0, len(places), WINDOWS):
        some = places[at : at + WINDOWS]
        cuts = [padded[0, :, y : y + height, x : x + width] for y, x in some]
        with runtime.autocast():
            logits = network(torch.stack(cuts))[0].float()
        if total is None:
            total = image.new_zeros(logits.shape[1], *padded.shape[2:])
        for (y, x), one in zip(some, logits, strict=True):
            total[:, y : y + height, x : x + width] += one
            times[y : y + height, x : x + width] += 1
    assert total is not None
    return (total / times)[None, :, : size[0], : size[1]]


def window_starts(whole: int, side: int) -> list[int]:
    """Return where windows of a side begin along a whole length, which they cover."""
    step = max(1, 2 * side // 3)  # 341 of 512 (BEiT, MAE)
    count = max(0, -(-(whole - side) // step)) + 1
    return [min(number * step, whole - side) for number in range(count)]


def _scaled(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    factor = 1.0 if short_side is None else short_side / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
