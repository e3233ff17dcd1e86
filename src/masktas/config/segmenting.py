"""Settings of segmentation; the defaults are those of UperNet on ADE20K (SPEC 8)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from masktas.config.fields import Count, Share
from masktas.config.training import EpochSettings, OptimSettings


def _scale(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= 10:
        raise ValueError("give two factors, 0 < least <= most <= 10")
    return value


class SegmentSettings(OptimSettings, EpochSettings):
    """Training with masks (SPEC 8)."""

    init: Literal["inherit", "scratch"] = Field(
        "inherit",
        description="Weights of the backbone to start from: those beside the architecture.json, "
        "else the supernet's slice; or random ones.",
    )
    decoder: Literal["upernet", "linear"] = Field(
        "upernet",
        description="Decoder on the backbone: UperNet, or one layer on the last map, which is "
        "cheap.",
    )
    channels: Count = Field(
        256,
        description="Number of channels of UperNet; 768 in published results of a ViT-B, which is "
        "more than most backbones.",
    )
    ignore: int = Field(
        255, description="Number in a mask that marks pixels which are left out of everything."
    )
    classes: str | None = Field(
        None,
        description="Names of the classes 0, 1, 2... of the masks, between commas. By default "
        "those of classes.json beside the images, or the numbers that occur.",
    )
    epochs: Count = Field(127, description="Number of passes over the images.")
    batch_size: Count = Field(
        16, description="Number of images in a step, over all processes and accumulated parts."
    )
    lr: Annotated[float, Field(gt=0)] = Field(
        1.6e-3,
        description="Peak learning rate for a batch of 256; it is scaled to the batch size: 1e-4 "
        "for 16.",
    )
    warmup_share: Share = Field(
        0.01,
        description="Share of the epochs in which the learning rate rises linearly, before it "
        "falls linearly to 0.",
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8,
        description="Factor of the learning rate from each block to the one before it; the "
        "decoder has the whole rate. Published: 0.65 for a ViT-B, 0.8 for a ViT-Ti.",
    )
    drop_path: Share = Field(
        0.1,
        description="Probability that the last block is dropped; it rises linearly to this "
        "from 0 in the first.",
    )
    scale: Annotated[tuple[float, float], AfterValidator(_scale)] = Field(
        (0.5, 2.0),
        description="Smallest and largest factor that an image is scaled by before it is cropped.",
    )
    short_side: Count | None = Field(
        None,
        description="Shorter side in pixels that images are scaled to first, in training and "
        "evaluation: 512 for ADE20K. By default they stay as large as they are.",
    )
    max_class_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.75,
        description="Largest share of a crop that one class may take; if ten places have more, "
        "the last is taken.",
    )
    flip: bool = Field(True, description="Mirror images at random, left to right.")
    color: Share = Field(
        0.4, description="Largest random change of brightness, contrast and saturation."
    )
    validate_every: Count = Field(
        1,
        description="Number of epochs between measurements on the validation split; the last epoch "
        "is always measured.",
    )

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the classes; None where they are found with the masks."""
        return None if self.classes is None else tuple(map(str.strip, self.classes.split(",")))
