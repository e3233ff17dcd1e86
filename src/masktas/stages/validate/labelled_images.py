"""The labelled images of a validation: what probes learn from, and what they are measured on.

Shapes: n test images, m labelled images.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from masktas.data.store.image_store import Images, ImageStore
from masktas.errors import LabelError
from masktas.seeding import seed_for
from masktas.stages.common.images import labels_of

Numbers = NDArray[np.int64]


class LabelledImages:
    """The images of all probes, each seed with a draw of its own.

    Args:
        store: the images, opened for these splits.
        labels: class index of every image, see `read_labels`.
        learnt: the splits that a probe learns from.
        tested: the split whose images are classified.
        count: images that a probe learns from, drawn at random; None for all.
        seeds: number of probes of each network, S.
        seed: of the draws.

    Attributes:
        target: `[.]`, class of each image of the splits that probes learn from.
        truth: `[n]`, class of each test image.
        drawn: for each seed `[m]`, the images that it learns from, ascending.

    Raises:
        LabelError: if the images of a seed are all of one class.
    """

    def __init__(
        self,
        store: ImageStore,
        labels: list[list[int]],
        *,
        learnt: tuple[str, ...],
        tested: str,
        count: int | None,
        seeds: int,
        seed: int,
    ) -> None:
        self.store = store
        self.learnt, self.tested = store.images(*learnt), store.images(tested)
        self.target = labels_of(labels, self.learnt).numpy()
        self.truth = labels_of(labels, self.tested).numpy()
        self.drawn = [self._draw(count, seed_for(seed, "probe", number)) for number in range(seeds)]

    @property
    def seeds(self) -> int:
        """Number of probes of each network, S."""
        return len(self.drawn)

    @property
    def num_test(self) -> int:
        """Test images, n."""
        return len(self.tested)

    @property
    def num_learnt(self) -> int:
        """Labelled images of one probe, m."""
        return len(self.drawn[0])

    @cached_property
    def union(self) -> Numbers:
        """The images of all seeds, ascending."""
        return np.unique(np.concatenate(self.drawn))

    def of_seed(self, number: int) -> Images:
        """Return the images that a seed learns from."""
        rows = self.learnt.rows[self.drawn[number]]
        return Images(self.learnt.stored, rows, self.learnt.split)

    def _draw(self, count: int | None, seed: int) -> Numbers:
        order = np.random.default_rng(seed).permutation(len(self.learnt))
        drawn = np.sort(order[:count])
        if len(np.unique(self.target[drawn])) < 2:
            raise LabelError(
                f"The {len(drawn)} labelled images that the probe learns from are of one class: "
                "choose more --probe-images, or another --seed."
            )
        return drawn
