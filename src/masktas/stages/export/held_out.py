"""Images that the forms of an export are compared on: held out in the network's run, or random."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from masktas.config import RuntimeSettings, SegmentSettings
from masktas.console import Console
from masktas.data.augment import crop
from masktas.errors import MasktasError
from masktas.seeding import seed_for
from masktas.stages.common.images import open_masks
from masktas.stages.common.stage import Context
from masktas.stages.evaluate.asked import cached_as
from masktas.stages.evaluate.where import Home
from masktas.stages.export.form import Subject
from masktas.train.input import NetworkInput
from masktas.train.segmenters import SegmenterFacts
from masktas.train.windows import Views

SPLIT = "validation"
MOST_LOGITS = 2**27  # of a segmenter, at once: 512 MB, and as much for each form
BLOBS = 5  # on a side of a random image


@dataclass(frozen=True, slots=True)
class SampleImages:
    """Decoded images.

    Attributes:
        pixels: `[n, H, W, C]` of the network's `stored_size`.
        about: what they are, in one phrase.
        is_real: whether they are images of the run.
    """

    pixels: NDArray[np.uint8]
    about: str
    is_real: bool


def sample_images(home: Home | None, subject: Subject, num: int, console: Console) -> SampleImages:
    """Return up to `num` images of the validation split of the network's run, else random ones.

    Of a segmenter they are the windows in the middle of images, and only as many as their logits
    fit into memory.
    """
    why, seen, facts = "the network lies in no run folder", subject.seen, subject.facts
    if facts is not None:
        num = max(1, min(num, MOST_LOGITS // (math.prod(seen.image_size) * len(facts.classes))))
    if home is not None:
        try:
            found = (
                _of_run(home, seen, num, console)
                if facts is None
                else _windows_of_run(home, seen, facts, num, console)
            )
        except MasktasError as error:  # moved, deleted or changed: an export needs none of them
            console.warn(str(error))
            why = "those of its run cannot be read"  # without the error's paths: others read this
        else:
            if len(found):
                what = "images" if facts is None else "windows of images"
                about = f"{len(found)} {what} of the validation split of {home.run.folder.name}"
                return SampleImages(found, about, True)
            why = "its run has no validation split that the network could read"
    about = f"{num} random images, which say little about agreement ({why})"
    return SampleImages(random_images(seen, num), about, False)


def _of_run(home: Home, seen: NetworkInput, num: int, console: Console) -> NDArray[np.uint8]:
    """Read images of the run, a random selection in order; none if they are of another size."""
    settings = RuntimeSettings(device="cpu", precision="fp32")  # nothing is computed
    context = Context(home.run.folder, cached_as(home, settings), console)
    store = context.open_images(context.images_recorded(home.stage, None, None), allowed=(SPLIT,))
    images = store.images(SPLIT)
    if store.shape != (*seen.stored_size, seen.in_channels):
        return np.zeros((0, *store.shape), dtype=np.uint8)
    rng = np.random.default_rng(seed_for(0, "export"))
    return images.read(np.sort(rng.permutation(len(images))[:num]))


def _windows_of_run(
    home: Home, seen: NetworkInput, facts: SegmenterFacts, num: int, console: Console
) -> NDArray[np.uint8]:
    """Cut the middle of images with masks, a random selection in order."""
    context = Context(home.run.folder, RuntimeSettings(device="cpu", precision="fp32"), console)
    recorded = home.stage.manifest()["settings"]["settings"]
    images = open_masks(
        context.images_recorded(home.stage, None, None),
        SegmentSettings.model_validate(dict(recorded)),
        (SPLIT,),
        strict=False,
        bar=console.bar,
    )
    rng, rows = np.random.default_rng(seed_for(0, "export")), images.rows(SPLIT)
    chosen = np.sort(rng.permutation(rows)[:num])
    side, size = facts.short_side, seen.image_size
    return np.stack([middle_window(images.image(row), side, size) for row in chosen.tolist()])


def middle_window(
    pixels: NDArray[np.uint8], short_side: int | None, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the window `[h, w, C]` in the middle of an image `[H, W, C]`.

    Args:
        pixels: the image.
        short_side: shorter side that it is scaled to first; None leaves it as it is.
        size: (h, w); what is missing at the right and below is black.
    """
    [(height, width)] = Views(short_side).sizes((pixels.shape[0], pixels.shape[1]))
    if (height, width) != pixels.shape[:2]:
        whole = np.array([[0, 0, *pixels.shape[:2]]])
        scaled = crop(pixels[None], whole, None, (height, width))[0]
        pixels = scaled.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    top, left = max(0, height - size[0]) // 2, max(0, width - size[1]) // 2
    cut = pixels[top : top + size[0], left : left + size[1]]
    window = np.zeros((*size, pixels.shape[2]), np.uint8)
    window[: cut.shape[0], : cut.shape[1]] = cut
    return window


def random_images(seen: NetworkInput, num: int) -> NDArray[np.uint8]:
    """Draw smooth random images `[n, H, W, C]`: networks take plain noise for one and the same."""
    generator = torch.Generator().manual_seed(seed_for(0, "export"))
    blobs = torch.rand(num, seen.in_channels, BLOBS, BLOBS, generator=generator)
    smooth = F.interpolate(blobs, size=seen.stored_size, mode="bicubic").clamp(0, 1)
    pixels: NDArray[np.uint8] = (smooth * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels
