"""Images that the forms of an export are compared on: held out in the network's run, or random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from masktas.config import RuntimeSettings
from masktas.console import Console
from masktas.errors import MasktasError
from masktas.seeding import seed_for
from masktas.stages.common.stage import Context
from masktas.stages.evaluate.asked import cached_as
from masktas.stages.evaluate.where import Home
from masktas.train.input import NetworkInput

SPLIT = "validation"
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


def sample_images(
    home: Home | None, seen: NetworkInput, num: int, console: Console
) -> SampleImages:
    """Return up to `num` images of the validation split of the network's run, else random ones."""
    why = "the network lies in no run folder"
    if home is not None:
        try:
            found = _of_run(home, seen, num, console)
        except MasktasError as error:  # moved, deleted or changed: an export needs none of them
            console.warn(str(error))
            why = "those of its run cannot be read"  # without the error's paths: others read this
        else:
            if len(found):
                about = f"{len(found)} images of the validation split of {home.run.folder.name}"
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


def random_images(seen: NetworkInput, num: int) -> NDArray[np.uint8]:
    """Draw smooth random images `[n, H, W, C]`: networks take plain noise for one and the same."""
    generator = torch.Generator().manual_seed(seed_for(0, "export"))
    blobs = torch.rand(num, seen.in_channels, BLOBS, BLOBS, generator=generator)
    smooth = F.interpolate(blobs, size=seen.stored_size, mode="bicubic").clamp(0, 1)
    pixels: NDArray[np.uint8] = (smooth * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels
