"""A trained network that takes images as people have them: `masktas.load(PATH).predict("a.jpg")`.

Shapes: B images, C channels, H x W stored, K classes, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.artifacts import SEGMENTER
from masktas.data.reading import ReadImage, as_source, nothing_read, read_images, stacked
from masktas.data.sources import Source
from masktas.errors import ConfigError, LabelError, UndecodableImage
from masktas.nn.vit import ViT
from masktas.segment_predictor import SegmentPredictor, load_segment_predictor
from masktas.space import Architecture
from masktas.train.input import NetworkInput, missing_input
from masktas.train.networks import filled, network_folder, read_shape

BATCH_SIZE = 128
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of one image.

    Attributes:
        name: of the image.
        top: (class, probability), the most probable first; empty if it could not be read.
        problem: why it could not be read; empty if it could.
    """

    name: str
    top: tuple[tuple[str, float], ...] = ()
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        if self.problem:
            return {"name": self.name, "problem": self.problem}
        top = [{"class": name, "probability": value} for name, value in self.top]
        return {"name": self.name, "top": top}


@dataclass(frozen=True, slots=True)
class Features:
    """Features of images.

    Attributes:
        names: of the images that could be read.
        values: `[n, D]` float32, a row for each of them.
        problems: (name, reason) of each image that could not be read.
    """

    names: list[str]
    values: NDArray[np.float32]
    problems: list[tuple[str, str]]


class Predictor(ViT):
    """A network that knows how images become its input, and what its classes are called.

    It is a plain `ViT` with the same weights: call it with normalised images `[B, C, H, W]`, or use
    `predict` and `embed`, which read and prepare images exactly as for training and evaluation.

    Args:
        architecture: the shape.
        seen: its input and classes; None if its folder does not say.
        folder: where it is from, for messages.
    """

    def __init__(self, architecture: Architecture, seen: NetworkInput | None, folder: Path) -> None:
        super().__init__(architecture)
        self._seen, self.folder = seen, folder

    @property
    def seen(self) -> NetworkInput:
        """How images become its input.

        Raises:
            ArtifactError: if its folder does not say.
        """
        if self._seen is None:
            raise missing_input(self.folder)
        return self._seen

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the head.

        Raises:
            LabelError: if it was trained without labels.
        """
        if self.seen.classes is None:
            raise LabelError(
                f"{self.folder}: this network was trained without labels, so it knows no classes: "
                "fine-tune it (`masktas finetune`), or use its features (`masktas embed`)."
            )
        return self.seen.classes

    @property
    def knows_classes(self) -> bool:
        """Whether it was trained with labels."""
        return self.seen.classes is not None

    def logits(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Classify decoded images `[B, H, W, C]` of `seen.stored_size`: `[B, K]` float32."""
        found: Tensor = self(self.seen.prepare(pixels, self.device)).float()
        return found

    def features(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Encode decoded images `[B, H, W, C]`, pooled as the head takes them: `[B, D]` float32."""
        return self.pooled(self.seen.prepare(pixels, self.device)).float()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.cls_token.device

    def predict(
        self,
        images: Any,
        *,
        top: int = 5,
        batch_size: int = BATCH_SIZE,
        strict: bool = False,
        advance: Advance = lambda _: None,
    ) -> list[Prediction]:
        """Classify images.

        Args:
            images: a path of an image, folder, archive or table; a Pillow image; an array
                `[H, W, C]`; a list of these; see `masktas.data.reading.as_source`.
            top: number of classes for each image.
            batch_size: images that are classified at once.
            strict: raise UndecodableImage at the first image that cannot be read.
            advance: called with the number of images that are done.

        Returns:
            A prediction for each image, in order; `problem` says why one could not be read.

        Raises:
            ConfigError: if `top` is below 1.
            LabelError: if the network was trained without labels.
            DataError: if none of the images could be read.
        """
        if top < 1:
            raise ConfigError(f"top is {top}: ask for at least one class.")
        classes = self.classes

        def named(row: Tensor) -> tuple[tuple[str, float], ...]:
            best, which = row.topk(min(top, len(classes)))
            pairs = zip(which.tolist(), best.tolist(), strict=True)
            return tuple((classes[number], value) for number, value in pairs)

        def probabilities(pixels: NDArray[np.uint8]) -> Tensor:
            return self.logits(pixels).softmax(dim=1).cpu()

        source, names = as_source(images)
        return [
            Prediction(name, () if row is None else named(row), problem)
            for name, problem, row in self.rows(
                source,
                probabilities,
                names=names,
                batch_size=batch_size,
                strict=strict,
                advance=advance,
            )
        ]

    def embed(
        self,
        images: Any,
        *,
        batch_size: int = BATCH_SIZE,
        strict: bool = False,
        advance: Advance = lambda _: None,
    ) -> Features:
        """Return the features of images, pooled as the head takes them; see `predict`."""
        source, names = as_source(images)
        rows = list(
            self.rows(
                source,
                lambda pixels: self.features(pixels).cpu(),
                names=names,
                batch_size=batch_size,
                strict=strict,
                advance=advance,
            )
        )
        return Features(
            [name for name, _, row in rows if row is not None],
            np.stack([row.numpy() for _, _, row in rows if row is not None]),
            [(name, problem) for name, problem, row in rows if row is None],
        )

    def rows(
        self,
        source: Source,
        compute: Callable[[NDArray[np.uint8]], Tensor],
        *,
        names: list[str] | None = None,
        batch_size: int = BATCH_SIZE,
        strict: bool = False,
        advance: Advance = lambda _: None,
    ) -> Iterator[tuple[str, str, Tensor | None]]:
        """Yield name, problem and result of each image of a source, in order.

        Args:
            source: the images.
            compute: of decoded images `[B, H, W, C]`, a row for each.
            names: of the images; by default those of the source.
            batch_size: images that are computed at once.
            strict: raise UndecodableImage at the first image that cannot be read.
            advance: called with the number of images that are done.

        Raises:
            DataError: if none of the images could be read.
        """
        num, first = 0, None
        found_any = False
        for batch in _batches(read_images(source, self.seen.decode_spec), batch_size):
            readable = [one for one in batch if one.decoded.pixels is not None]
            with torch.no_grad():
                results = iter(compute(stacked(readable)) if readable else ())
            found_any = found_any or bool(readable)
            for one in batch:
                name = names[num] if names is not None and num < len(names) else one.item.name
                row = None if one.decoded.pixels is None else next(results)
                first = first or (name, one.decoded.problem)
                if strict and row is None:
                    raise UndecodableImage(name, one.decoded.problem)
                yield name, one.decoded.problem, row
                num += 1
            advance(num)
        if not found_any:
            raise nothing_read(source, num, *(first or ("it", "empty")))


def _batches(images: Iterator[ReadImage], batch_size: int) -> Iterator[list[ReadImage]]:
    batch: list[ReadImage] = []
    for one in images:
        batch.append(one)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def load(path: str | Path) -> Predictor | SegmentPredictor:
    """Load a network that a stage or an export wrote, on the CPU and ready to use.

    Args:
        path: its folder, an export of it, the architecture.json in one of these, or a run folder,
            which stands for its `finetune/main`, or else its `segment/main`.

    Returns:
        A `torch.nn.Module` that also takes files: `load(path).predict("a.jpg")`, `.embed("a.jpg")`.
        A segmenter predicts class maps, see `SegmentPredictor`.

    Raises:
        ArtifactError: if a file is missing or damaged.
    """
    folder = network_folder(path)
    if (folder / SEGMENTER).exists():
        return load_segment_predictor(folder)
    return load_backbone(folder)


def load_backbone(path: str | Path) -> Predictor:
    """Load a network as `load` does; of a segmenter its backbone.

    Features of a network without labels are means of its patches: no loss was on its class token.

    Raises:
        ArtifactError: if a file is missing or damaged.
    """
    folder = network_folder(path)
    shape = read_shape(folder)
    seen = NetworkInput.load(folder, shape)
    if seen is not None and seen.classes is None and shape.pool == "cls":
        shape = shape.replace(pool="mean")
    return filled(Predictor(shape, seen, folder), folder)
