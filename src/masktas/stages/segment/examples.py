"""A picture of what a segmenter finds: image, mask and answer of a few validation images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from masktas.data.examples import NUM_EXAMPLES, Example, Examples
from masktas.data.segmentation import SegmentationImages
from masktas.nn.segmenter import Segmenter
from masktas.train.runtime import Runtime
from masktas.train.windows import Views, class_map


def draw_examples(
    folder: Path, network: Segmenter, images: SegmentationImages, views: Views, runtime: Runtime
) -> None:
    """Write `examples.png`, a row of three pictures for each image, and what it shows.

    The images lie evenly in the validation split.

    Args:
        folder: where the files are written.
        network: the trained segmenter, on its device.
        images: opened for the validation split.
        views: how the images are seen.
        runtime: device and precision.
    """
    rows = images.rows("validation")
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), NUM_EXAMPLES)).round().astype(int)]
    was_training = network.training
    network.eval()
    shown = []
    for row in chosen.tolist():
        pixels = images.image(row)
        found = class_map(
            network,
            torch.from_numpy(pixels).to(runtime.device),
            views,
            mean=images.mean,
            std=images.std,
            runtime=runtime,
        )
        shown.append(
            Example.of(
                images.name(row),
                pixels,
                images.mask(row),
                found.cpu().numpy(),
                num_classes=network.num_classes,
            )
        )
    network.train(was_training)
    Examples.write(folder, shown)
