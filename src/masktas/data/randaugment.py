"""RandAugment: timm's operations on bytes, drawn for each image from a given generator.

timm draws from the global generators of Python and numpy. Here the operations are timm's
(`timm.data.auto_augment`), and the draws are the caller's, so that they depend on seed and step.

Source: Cubuk et al., RandAugment, arXiv 1909.13719, in timm's variant with a random magnitude.
Shapes: B images, n operations per image, C channels, h x w network input.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from masktas.errors import ConfigError

MOST = 10.0  # the largest magnitude
CHANNELS = (1, 3)
LARGEST = {  # arguments at the largest magnitude, for operations in two directions
    "Rotate": 30.0,  # degrees
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateXRel": 0.45,  # of the width
    "TranslateYRel": 0.45,
}
ENHANCING = ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
FORM = (
    "use timm's form, such as rand-m9-mstd0.5-inc1, with m (magnitude, 0 to 10), mstd (standard "
    "deviation of the magnitude), n (operations per image, 1 to 15), p (probability of each, 0 to "
    "1) and inc (1 for operations whose effect increases with the magnitude, or 0)"
)
NUMBER = {"m": r"[0-9]+", "n": r"[0-9]+", "inc": r"[01]"}  # others may have decimals
LIMITS = {"m": (0, MOST), "n": (1, 15), "p": (0, 1)}


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations drawn for each image.

    Attributes:
        numbers: `[B, n]`, of the operations in `operation_names`; -1 for none.
        levels: `[B, n]`, magnitudes in [-10, 10]; the sign is the direction, for operations that
            have two.
    """

    numbers: NDArray[np.int64]
    levels: NDArray[np.float64]

    def rows(self, rows: slice | NDArray[np.int64]) -> Operations:
        """Return the operations of some of the images."""
        return Operations(self.numbers[rows], self.levels[rows])


@dataclass(frozen=True, slots=True)
class RandAugment:
    """How operations are drawn.

    Attributes:
        magnitude: of the operations, in [0, 10].
        num_ops: operations drawn for each image, with replacement.
        std: standard deviation of the magnitude; infinite: uniform in [0, magnitude].
        increasing: whether to use the operations whose effect increases with the magnitude.
        probability: of applying each drawn operation.
    """

    magnitude: float = MOST
    num_ops: int = 2
    std: float = 0.0
    increasing: bool = False
    probability: float = 0.5

    @staticmethod
    def parse(text: str) -> RandAugment:
        """Read timm's form, such as `rand-m9-mstd0.5-inc1`, with timm's defaults.

        As in timm, mstd above 100 draws the magnitude uniformly. Weights of operations (`t`) and
        larger magnitudes (`mmax`) are not supported.

        Raises:
            ConfigError: if it has another form or a number outside its range.
        """
        first, *parts = text.split("-")
        if first != "rand":
            raise ConfigError(f"RandAugment {text!r} does not begin with 'rand': {FORM}.")
        values: dict[str, float] = {}
        for part in parts:
            found = re.fullmatch(r"(m|mstd|n|p|inc)([0-9].*)", part)
            key, number = found.groups() if found else ("", "")
            if not re.fullmatch(NUMBER.get(key, r"[0-9]+(\.[0-9]*)?"), number) or key in values:
                raise ConfigError(f"RandAugment {text!r}: {part!r} is unknown or repeated: {FORM}.")
            values[key] = float(number)
            low, high = LIMITS.get(key, (0, np.inf))
            if not low <= values[key] <= high:
                raise ConfigError(f"RandAugment {text!r}: {part!r} is out of range: {FORM}.")
        std = values.get("mstd", 0.0)
        return RandAugment(
            magnitude=values.get("m", MOST),
            num_ops=int(values.get("n", 2)),
            std=np.inf if std > 100 else std,
            increasing=bool(values.get("inc", 0)),
            probability=values.get("p", 0.5),
        )

    def draw(self, rng: np.random.Generator, batch: int) -> Operations:
        """Draw the operations of a batch, distributed as in timm."""
        shape = (batch, self.num_ops)
        numbers = rng.integers(len(operation_names(self.increasing)), size=shape)
        numbers[rng.uniform(size=shape) >= self.probability] = -1
        if np.isinf(self.std):
            levels = rng.uniform(0, self.magnitude, size=shape)
        else:
            levels = rng.normal(self.magnitude, self.std, size=shape).clip(0, MOST)
        return Operations(numbers, np.where(rng.uniform(size=shape) < 0.5, levels, -levels))

    def apply(
        self, images: NDArray[np.uint8], operations: Operations, fill: tuple[int, ...]
    ) -> None:
        """Apply drawn operations in place.

        Args:
            images: `[B, h, w, C]`, of 1 or 3 channels.
            operations: of these images.
            fill: color of pixels outside of a rotated, sheared or translated image, `[C]`.
        """
        names = operation_names(self.increasing)

        def change(row: int) -> None:
            pair = zip(
                operations.numbers[row].tolist(), operations.levels[row].tolist(), strict=True
            )
            drawn = [(names[number], level) for number, level in pair if number >= 0]
            pixels = images[row] if images.shape[3] > 1 else images[row, :, :, 0]
            image = Image.fromarray(pixels)
            for name, level in drawn:
                image = operate(image, name, level, fill)
            pixels[:] = np.asarray(image)

        rows = np.flatnonzero((operations.numbers >= 0).any(axis=1)).tolist()
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(change, rows))


@lru_cache(maxsize=2)
def operation_names(increasing: bool) -> list[str]:
    """Return the names of timm's operations."""
    from timm.data.auto_augment import rand_augment_choices

    return list(rand_augment_choices("", increasing=increasing))


def operate(image: Image.Image, name: str, level: float, fill: tuple[int, ...]) -> Image.Image:
    """Apply one operation of timm, with bicubic interpolation."""
    from timm.data.auto_augment import NAME_TO_OP

    values = arguments(name, level)
    if name.startswith("Posterize") and values == (0,):  # Pillow 13 refuses to keep no bits
        return Image.new(image.mode, image.size)
    apply: Any = NAME_TO_OP[name]
    color = fill if len(fill) > 1 else fill[0]
    found: Image.Image = apply(image, *values, fillcolor=color, resample=Image.Resampling.BICUBIC)
    return found


def arguments(name: str, level: float) -> tuple[Any, ...]:
    """Return the arguments of an operation at a level in [-10, 10].

    Those of operations in two directions are computed here, because timm draws their sign.
    """
    from timm.data.auto_augment import LEVEL_TO_ARG

    if name in LARGEST:
        return (level / MOST * LARGEST[name],)
    if name in ENHANCING:
        return (max(0.1, 1.0 + level / MOST * 0.9),)
    convert: Callable[..., tuple[Any, ...]] | None = LEVEL_TO_ARG[name]
    return () if convert is None else convert(abs(level), {})
