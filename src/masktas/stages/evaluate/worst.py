"""The images that a segmenter is worst at, kept while images are measured."""

from __future__ import annotations

import numpy as np

from masktas.data.examples import NUM_EXAMPLES, Example
from masktas.data.segmentation import SegmentationImages
from masktas.train.confusion import Confusion, Measured


class WorstImages:
    """The six images of the lowest mean IoU so far, the lowest first.

    Args:
        images: that are measured.
    """

    def __init__(self, images: SegmentationImages) -> None:
        self._images = images
        self.found: list[Example] = []

    def add(self, one: Measured) -> None:
        """Look at an image; one without a pixel that has a class is passed over."""
        measured = Confusion(one.counts, 0.0)
        if not measured.present.any():
            return
        miou = float(np.nanmean(measured.ious))
        full = len(self.found) == NUM_EXAMPLES
        if full and miou >= max(other.miou or 0.0 for other in self.found):
            return
        drawn = Example.of(
            self._images.name(one.row),
            one.pixels,
            one.truth,
            one.found,
            num_classes=len(self._images.classes.names),
            miou=miou,
        )
        ranked = sorted([*self.found, drawn], key=lambda other: other.miou or 0.0)
        self.found = ranked[:NUM_EXAMPLES]
