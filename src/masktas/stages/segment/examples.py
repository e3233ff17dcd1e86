"""A picture of what a segmenter finds: image, mask and answer of a few validation images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from masktas.data.class_maps import class_colors, colored, visible
from masktas.data.masks import IGNORED
from masktas.data.segmentation import SegmentationImages
from masktas.files import write_atomic, write_json
from masktas.nn.segmenter import Segmenter
from masktas.stages.segment.manifest import EXAMPLES, SHOWN, Examples
from masktas.train.runtime import Runtime
from masktas.train.windows import Views, segment_image

NUM_IMAGES = 6
SIDE = 240  # pixels of the longer side of a picture
GAP = 8  # pixels between pictures
Pixels = NDArray[np.uint8]


def draw_examples(
    folder: Path, network: Segmenter, images: SegmentationImages, views: Views, runtime: Runtime
) -> None:
    """Write `examples.png`, a row of three pictures for each image, and what it shows.

    The images lie evenly in the validation split. Masks are black where pixels are ignored.

    Args:
        folder: where the files are written.
        network: the trained segmenter, on its device.
        images: opened for the validation split.
        views: how the images are seen.
        runtime: device and precision.
    """
    rows = images.rows("validation")
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), NUM_IMAGES)).round().astype(int)]
    colors, lines, occur = class_colors(len(images.classes.names)), [], set[int]()
    was_training = network.training
    network.eval()
    for row in chosen.tolist():
        pixels, truth = images.image(row), images.mask(row)
        logits = segment_image(
            network,
            torch.from_numpy(pixels).to(runtime.device),
            views,
            mean=images.mean,
            std=images.std,
            runtime=runtime,
        )
        found = logits[0].argmax(dim=0).to(torch.int16).cpu().numpy()
        occur |= set(np.unique(truth).tolist()) | set(np.unique(found).tolist())
        pictures = [_fitted(visible(pixels), Image.Resampling.BILINEAR)]
        pictures += [
            _fitted(colored(one, colors), Image.Resampling.NEAREST) for one in (truth, found)
        ]
        lines.append(_joined(pictures, axis=1))
    network.train(was_training)
    width = max(one.shape[1] for one in lines)
    padded = [
        np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255)
        for one in lines
    ]
    picture = Image.fromarray(_joined(padded, axis=0))
    write_atomic(folder / EXAMPLES, lambda temporary: picture.save(temporary, "PNG"))
    names = tuple(images.name(row) for row in chosen.tolist())
    write_json(folder / SHOWN, Examples(names, tuple(sorted(occur - {IGNORED}))).to_dict())


def _fitted(pixels: Pixels, how: Image.Resampling) -> Pixels:
    """Scale a picture `[H, W, 3]` to a longer side of `SIDE`."""
    height, width = pixels.shape[:2]
    factor = SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, how))


def _joined(pictures: list[Pixels], *, axis: int) -> Pixels:
    """Put pictures beside or below each other, with white between them."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    between = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, between)]
    return np.concatenate(parts[:-1], axis=axis)
