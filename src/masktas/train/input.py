"""How images become a network's input, and what its classes are called: `input.json`.

The file lies beside `architecture.json` and `weights.safetensors`, so that a network folder can be
copied anywhere and used alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masktas.artifacts import INPUT
from masktas.data.augment import center_boxes, crop
from masktas.data.decode.pool import DecodeSpec
from masktas.errors import ArtifactError
from masktas.files import read_json, write_json
from masktas.space import Architecture

if TYPE_CHECKING:  # reading a network needs no store
    from masktas.data.store.image_store import ImageStore

EVALUATION_MARGIN = 8 / 7  # 256 over 224, as released networks are evaluated
# For those who read the file without masktas.
STEPS = (
    "make bytes of larger values: white, or the maximum of their type, becomes 255",
    "turn the image upright by its EXIF orientation",
    "scale it to cover stored_size (bicubic, antialiased), crop the center of stored_size",
    "put transparency on white; convert to in_channels (grey is luminance)",
    "crop the center of image_size",
    "divide by 255, subtract mean, divide by std",
)


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """How images become a network's input, and its classes.

    Attributes:
        image_size: (height, width) that the network sees.
        stored_size: (height, width) that images are scaled to before the center is cropped.
        in_channels: 1 for grey, 3 for colour, or any other number.
        white: value that counts as white in the files; None for the maximum of their type.
        mean, std: of each channel, for pixels in [0, 1].
        classes: name of each class in the order of the head; None for a network without labels.
    """

    image_size: tuple[int, int]
    stored_size: tuple[int, int]
    in_channels: int
    white: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] | None = None

    @staticmethod
    def of_store(store: ImageStore, classes: list[str] | None = None) -> NetworkInput:
        """Return the input of a network that was trained on the images of a store."""
        height, width, channels = store.shape
        return NetworkInput(
            store.image_size,
            (height, width),
            channels,
            store.info["white"],
            tuple(store.mean),
            tuple(store.std),
            None if classes is None else tuple(classes),
        )

    @staticmethod
    def of_released(
        image_size: tuple[int, int],
        in_channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> NetworkInput:
        """Return the input of a released network, with the usual margin around its images."""
        height, width = (math.ceil(side * EVALUATION_MARGIN) for side in image_size)
        return NetworkInput(image_size, (height, width), in_channels, None, mean, std)

    @property
    def decode_spec(self) -> DecodeSpec:
        """How a file is decoded before the center is cropped."""
        return DecodeSpec(self.stored_size, self.in_channels, self.white)

    def prepare(self, pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Crop and normalise decoded images `[B, *stored_size, C]`: `[B, C, *image_size]`.

        The same operations as `Batches.plain`, so the result is bit-identical to what a network is
        evaluated on.
        """
        mean, std = (torch.tensor(values, device=device) for values in (self.mean, self.std))
        images = torch.from_numpy(pixels).to(device)
        boxes = torch.from_numpy(center_boxes(len(pixels), self.stored_size, self.image_size))
        return crop(images, boxes.to(device), None, self.image_size, mean=mean, std=std)

    def save(self, folder: Path) -> None:
        """Write `input.json` into a network's folder."""
        fields = {name: getattr(self, name) for name in NetworkInput.__slots__}
        write_json(folder / INPUT, fields | {"steps": STEPS})

    @staticmethod
    def load(folder: Path, architecture: Architecture) -> NetworkInput | None:
        """Read `input.json` of the network of a folder; None if it has none.

        Raises:
            ArtifactError: if it is damaged, or not of a network of that architecture.
        """
        path = folder / INPUT
        if not path.exists():
            return None
        try:
            found = _parsed(read_json(path))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path}: damaged ({error}). Run the stage that wrote it again with --overwrite."
            ) from None
        found._require_fit(architecture, path)
        return found

    def _require_fit(self, one: Architecture, path: Path) -> None:
        of_network = [("image_size", one.image_size), ("in_channels", one.in_channels)]
        if self.classes is not None:
            of_network.append(("classes", one.num_classes or 0))
        for name, expected in of_network:
            there = len(self.classes or ()) if name == "classes" else getattr(self, name)
            if there != expected:
                raise ArtifactError(
                    f"{path}: {name} is {there} there and {expected} in architecture.json, so the "
                    "files are of different networks: copy all files of one folder."
                )


def missing_input(folder: Path) -> ArtifactError:
    """Return the error for a network whose folder has no `input.json`, but needs it."""
    return ArtifactError(
        f"{folder}: no {INPUT} there, which says how images become the network's "
        "input: an earlier version of masktas wrote this folder, or the file was not "
        "copied. Copy it, or run the stage again with --overwrite."
    )


def _parsed(content: Any) -> NetworkInput:
    """Return the content of an `input.json` as a value.

    Raises:
        KeyError, TypeError, ValueError: if it is damaged.
    """
    sizes = {name: _size(content[name]) for name in ("image_size", "stored_size")}
    channels, white, classes = (content[key] for key in ("in_channels", "white", "classes"))
    scale = {name: tuple(map(float, content[name])) for name in ("mean", "std")}
    if any(len(values) != channels for values in scale.values()):
        raise ValueError(f"mean and std do not have {channels} numbers")
    if any(not math.isfinite(value) for values in scale.values() for value in values):
        raise ValueError("mean or std is not finite")
    if min(scale["std"]) <= 0:
        raise ValueError("std is not above 0")
    if any(small > large for small, large in zip(*sizes.values(), strict=True)):
        raise ValueError("stored_size is below image_size")
    return NetworkInput(
        sizes["image_size"],
        sizes["stored_size"],
        int(channels),
        None if white is None else float(white),
        scale["mean"],
        scale["std"],
        None if classes is None else tuple(map(str, classes)),
    )


def _size(content: Any) -> tuple[int, int]:
    height, width = map(int, content)
    if min(height, width) < 1:
        raise ValueError("a size is below 1")
    return height, width
