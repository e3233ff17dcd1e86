"""Segmentation measured: one matrix over all pixels of whole images.

Shapes: H x W pixels of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from masktas.data.masks import IGNORED
from masktas.data.segmentation import SegmentationImages
from masktas.nn.segmenter import Segmenter
from masktas.train.ranks import ALONE, Ranks
from masktas.train.runtime import Runtime
from masktas.train.windows import Views, segment_bands


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


@dataclass(frozen=True, slots=True)
class Measured:
    """One image that was segmented.

    Attributes:
        row: its number in the images.
        pixels: `[H, W, C]`.
        truth, found: classes of the mask and of the segmenter, `[H, W]`.
        counts: `[K, K]`, see `Confusion`.
    """

    row: int
    pixels: NDArray[np.uint8]
    truth: NDArray[np.int16]
    found: NDArray[np.int16]
    counts: NDArray[np.int64]


@torch.no_grad()
def confusion(
    network: Segmenter,
    images: SegmentationImages,
    *splits: str,
    views: Views,
    runtime: Runtime,
    ranks: Ranks = ALONE,
    advance: Callable[[int], None] = lambda _: None,
    watch: Callable[[Measured], None] | None = None,
) -> Confusion:
    """Segment every image of some splits at its own size, and count.

    Args:
        network: the segmenter, on its device.
        images: images and masks.
        splits: which images.
        views: how the images are seen.
        runtime: device and precision.
        ranks: the processes that share the images.
        advance: called with the number of images that are done.
        watch: called with each image.
    """
    was_training = network.training
    network.eval()
    classes = len(images.classes.names)
    counts = torch.zeros(classes * classes, dtype=torch.long, device=runtime.device)
    loss = torch.zeros(1, dtype=torch.float64, device=runtime.device)
    for done, row in enumerate(ranks.mine(images.rows(*splits).tolist()), start=1):
        pixels, truth = images.image(row), images.mask(row)
        own, found, top = torch.zeros_like(counts), [], 0
        for logits in segment_bands(
            network,
            torch.from_numpy(pixels).to(runtime.device),
            views,
            mean=images.mean,
            std=images.std,
            runtime=runtime,
        ):
            predicted, bottom = logits[0].argmax(dim=0), top + logits.shape[2]
            target = torch.from_numpy(truth[top:bottom]).to(runtime.device, torch.long)
            labelled, top = target != IGNORED, bottom
            pair = target[labelled] * classes + predicted[labelled]
            own += torch.bincount(pair, minlength=classes * classes)
            loss += F.cross_entropy(
                logits, target[None], ignore_index=IGNORED, reduction="sum"
            ).double()
            if watch is not None:
                found.append(predicted.to(torch.int16).cpu())
        counts += own
        if watch is not None:
            of_image = own.view(classes, classes).cpu().numpy()
            watch(Measured(row, pixels, truth, torch.cat(found).numpy(), of_image))
        advance(done)
    network.train(was_training)
    ranks.sum(counts), ranks.sum(loss)
    total = max(1, int(counts.sum()))
    return Confusion(counts.view(classes, classes).cpu().numpy(), loss.item() / total)
