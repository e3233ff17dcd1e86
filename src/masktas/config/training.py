"""Settings that every training has: its length, its batches and its optimiser."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from masktas.config.fields import Count, CropScale, Settings, Share


class EpochSettings(Settings):
    """The length of a training."""

    epochs: Count = Field(100, description="Number of passes over the images.")


class OptimSettings(Settings):
    """Batch size and optimiser of a training."""

    batch_size: Count = Field(
        256, description="Number of images in a step, over all processes and accumulated parts."
    )
    lr: Annotated[float, Field(gt=0)] = Field(
        1e-3, description="Peak learning rate for a batch of 256; it is scaled to the batch size."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.05,
        description="Weight decay of weight matrices; norms, biases, positions and the "
        "class token have none.",
    )
    warmup_share: Share = Field(
        0.2,
        description="Share of the epochs in which the learning rate rises linearly, before "
        "its cosine.",
    )
    clip_grad: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Largest norm of the gradients; larger ones are scaled down. By default "
        "there is no limit.",
    )


class StepSettings(OptimSettings):
    """Batches and optimiser of a training on images of one size."""

    crop_scale: CropScale = Field(
        (0.2, 1.0),
        description="Smallest and largest share of an image's area that a random crop keeps.",
    )
    flip: bool = Field(True, description="Mirror images at random, left to right.")
    color: Share = Field(
        0.0,
        description="Largest random change of brightness, contrast and saturation: 0.4.",
    )


class TrainSettings(StepSettings, EpochSettings):
    """Settings of a training."""
