"""Settings of fine-tuning: the defaults are those of the recipe `plain` (`recipes`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from masktas.config.fields import CropScale, Share
from masktas.config.training import TrainSettings

NO_RANDAUGMENT = "none"
RecipeName = Literal[
    "auto", "plain", "small", "large", "paper", "transfer", "deit-transfer", "linear"
]


class FinetuneSettings(TrainSettings):
    """Training with labels (SPEC 5 and 7)."""

    recipe: RecipeName = Field(
        "auto",
        description="Published settings that other flags override: small (below 25M parameters), "
        "large, paper, transfer, deit-transfer, linear (the head only) or plain. By default chosen "
        "by the network's size and the epochs, with 100 epochs in batches of 256.",
    )
    init: Literal["inherit", "scratch"] = Field(
        "inherit",
        description="Weights to start from: those beside the architecture.json, else the "
        "supernet's slice; or random ones.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="Optimiser: AdamW, or SGD with momentum."
    )
    momentum: Share = Field(0.9, description="Momentum of --optimizer sgd.")
    nesterov: bool = Field(False, description="Nesterov's momentum, for --optimizer sgd.")
    beta2: Share = Field(
        0.95, description="Decay rate of the second moment of --optimizer adamw; beta1 is 0.9."
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Factor of the learning rate from each block to the one before it; the head "
        "and the last norm have the whole rate. With 1 all have.",
    )
    min_lr: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Learning rate at the end of the cosine, whatever the batch size."
    )
    freeze: bool = Field(
        False, description="Train the head only and leave all other weights as they are."
    )
    pool: Literal["mean", "mean-norm", "cls"] = Field(
        "mean",
        description="Input of the head: the mean of the normalised patches, the normalised mean "
        "of the patches (as in MAE), or the class token.",
    )
    drop_path: Share = Field(
        0.1,
        description="Probability that the last block is dropped; it rises linearly to this "
        "from 0 in the first.",
    )
    label_smoothing: Share = Field(
        0.1, description="Share of the target that is spread over all classes."
    )
    crop_scale: CropScale = Field(
        (0.35, 1.0),
        description="Smallest and largest share of an image's area that a random crop keeps.",
    )
    randaugment: str = Field(
        NO_RANDAUGMENT,
        description="RandAugment in timm's notation, such as rand-m9-mstd0.5-inc1, or none.",
    )
    erasing: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Probability that a random rectangle of an image is erased."
    )
    mixup: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Alpha of the Beta distribution that mixup draws the shares of two images "
        "from; 0 turns mixup off.",
    )
    cutmix: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Alpha of the Beta distribution that CutMix draws the pasted share from; 0 "
        "turns it off. With mixup as well, each batch has one of them.",
    )
    ema: Share = Field(
        0.0,
        description="Decay of a moving average of the weights, such as 0.9999, which is evaluated "
        "and kept instead of them; 0 for none.",
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Number of epochs without a better accuracy on the validation split after "
        "which training ends; 0 never ends it early.",
    )
