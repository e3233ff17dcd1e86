"""A trained segmenter that takes images as people have them: `masktas.load(PATH).predict("a.jpg")`.

Shapes: C channels, H x W pixels of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masktas.data.reading import as_source, nothing_read, read_whole_images
from masktas.errors import UndecodableImage
from masktas.nn.segmenter import Segmenter
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.input import NetworkInput, missing_input
from masktas.train.networks import read_shape
from masktas.train.runtime import Runtime
from masktas.train.segmenters import SegmenterFacts, filled_segmenter, read_facts
from masktas.train.windows import Views, class_map

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """The class of every pixel of one image.

    Attributes:
        name: of the image.
        indices: `[H, W]` at the size of the image, indices of `classes` of the network; None if the
            image could not be read.
        top: (class, share of the pixels), the largest first, of the classes that occur.
        problem: why it could not be read; empty if it could.
    """

    name: str
    indices: NDArray[np.int16] | None = None
    top: tuple[tuple[str, float], ...] = ()
    problem: str = ""


class SegmentPredictor(Segmenter):
    """A segmenter that knows how images become its input, and what its classes are called.

    It is a plain `Segmenter` with the same weights: call it with normalised crops, or use
    `predict`, which reads whole images and slides a window over them exactly as in validation.

    Args:
        architecture: of the backbone.
        facts: decoder and classes.
        seen: its input; its sizes are those of a crop.
        folder: where it is from, for messages.
    """

    knows_classes = True  # as a `Predictor` that was trained with labels

    def __init__(
        self, architecture: Architecture, facts: SegmenterFacts, seen: NetworkInput, folder: Path
    ) -> None:
        super().__init__(ViT(architecture), facts.decoder, facts.channels, len(facts.classes))
        self.facts, self.seen, self.folder = facts, seen, folder

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.facts.classes

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.backbone.cls_token.device

    def views(
        self, scales: tuple[float, ...] = (1.0,), *, flip: bool = False, batch_size: int = 16
    ) -> Views:
        """Return how it sees images; see `predict`."""
        return Views(self.facts.short_side, scales, flip, batch_size)

    def class_map(self, pixels: Pixels, views: Views) -> NDArray[np.int16]:
        """Segment a decoded image `[H, W, C]`: class indices `[H, W]`."""
        indices = class_map(
            self,
            torch.from_numpy(pixels).to(self.device),
            views,
            mean=self.seen.mean,
            std=self.seen.std,
            runtime=Runtime(self.device, bf16=False),
        )
        found: NDArray[np.int16] = indices.cpu().numpy()
        return found

    def predict(
        self,
        images: Any,
        *,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
        batch_size: int = 16,
        strict: bool = False,
        advance: Callable[[int], None] = lambda _: None,
    ) -> list[ClassMap]:
        """Segment images, each at its own size.

        Args:
            images: see `masktas.data.reading.as_source`.
            scales: factors that each image is also seen at; probabilities are averaged.
            flip: whether each image is also seen mirrored.
            batch_size: windows that are computed at once.
            strict: raise UndecodableImage at the first image that cannot be read.
            advance: called with the number of images that are done.

        Returns:
            A class map for each image, in order; `problem` says why one could not be read.

        Raises:
            DataError: if none of the images could be read.
        """
        views = self.views(scales, flip=flip, batch_size=batch_size)
        return [one for one, _ in self.each(images, views, strict=strict, advance=advance)]

    def each(
        self,
        images: Any,
        views: Views,
        *,
        strict: bool = False,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[ClassMap, Pixels | None]]:
        """Yield the class map of each image beside its pixels `[H, W, C]`; see `predict`."""
        source, names = as_source(images)
        num, found_any, first = 0, False, ("it", "empty")
        for one in read_whole_images(source, self.seen.in_channels, self.seen.white):
            name = names[num] if names is not None and num < len(names) else one.item.name
            pixels, problem = one.decoded.pixels, one.decoded.problem
            num += 1
            if pixels is None:
                if strict:
                    raise UndecodableImage(name, problem)
                first = first if num > 1 else (name, problem)
                yield ClassMap(name, problem=problem), None
            else:
                found_any = True
                indices = self.class_map(pixels, views)
                yield ClassMap(name, indices, self._shares(indices)), pixels
            advance(num)
        if not found_any:
            raise nothing_read(source, num, *first)

    def _shares(self, indices: NDArray[np.int16]) -> tuple[tuple[str, float], ...]:
        counts = np.bincount(indices.ravel(), minlength=len(self.classes)) / indices.size
        order = np.argsort(-counts, kind="stable")
        return tuple((self.classes[one], float(counts[one])) for one in order if counts[one])


def load_segment_predictor(folder: Path) -> SegmentPredictor:
    """Load the segmenter of a folder, on the CPU and ready to use.

    Raises:
        ArtifactError: if a file is missing or damaged.
    """
    shape, facts = read_shape(folder), read_facts(folder)
    seen = NetworkInput.load(folder, shape)
    if seen is None:
        raise missing_input(folder)
    with torch.device("meta"):
        network = SegmentPredictor(shape, facts, seen, folder)
    return filled_segmenter(network, folder)
