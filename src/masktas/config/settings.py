"""Typed settings of each stage, with a default, a range and a description.

The command line's flags and the sections of a configuration file are made from these, and every
stage writes the resolved ones into its folder. Here are those that are not of one training or
search: the others are in `distilling`, `finetuning`, `searching` and `validating`, what all
trainings share in `training`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from masktas.config.distilling import (
    DistillSettings,
    RefineSettings,
    SupernetSettings,
    TeacherSettings,
)
from masktas.config.fields import (
    Bytes,
    Channels,
    Count,
    Duration,
    ImageSize,
    PerChannel,
    Ratio,
    Scales,
    Settings,
)
from masktas.config.finetuning import FinetuneSettings
from masktas.config.searching import SearchSettings
from masktas.config.segmenting import SegmentSettings
from masktas.config.validating import ValidateSettings
from masktas.errors import ConfigError


class DataSettings(Settings):
    """Which images, how large, and how they are divided."""

    image_size: ImageSize | None = Field(
        None,
        description="Size of the images in pixels: 224, or height x width: 96x160. By "
        "default that of the space.",
    )
    in_channels: Channels | None = Field(
        None,
        description="Number of channels: 1 for grey, 3 for colour, 4 with transparency, or "
        "what the files have. By default that of the space.",
    )
    white: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Value that counts as white, for files that use less than their type "
        "holds: 4095 for 12 bits in 16.",
    )
    mean: PerChannel | None = Field(
        None, description="Mean of each channel in [0, 1]: 0.5,0.5,0.5. By default it is measured."
    )
    std: PerChannel | None = Field(
        None, description="Standard deviation of each channel. By default it is measured."
    )
    root: str | None = Field(
        None, description="Folder with torchvision's files, for DATA such as cifar10 or imagenet."
    )
    image_column: str | None = Field(
        None, description="Column of a table that holds the images. By default it is found."
    )
    label_column: str | None = Field(
        None, description="Column of a table that holds the labels. By default it is found."
    )
    limit: Count | None = Field(
        None, description="Number of images to use, evenly spread over the source. By default all."
    )
    search_share: Ratio = Field(
        0.05, description="Share of the images that is held out for the search."
    )
    validation_share: Ratio = Field(
        0.05, description="Share of the images that is held out to validate training."
    )
    test_share: Ratio = Field(
        0.1,
        description="Share of the images that is held out as test split, if the source has "
        "none of its own.",
    )


class RuntimeSettings(Settings):
    """Where and how a stage runs; only seed, precision and compilation change the result."""

    seed: Annotated[int, Field(ge=0)] = Field(
        0, description="Seed of every random number; on a CPU, equal seeds give equal runs."
    )
    device: str = Field("auto", description="Device to run on: auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Precision of matrix products: auto is bf16 on CUDA; on a CPU it is bf16 if a "
        "short measurement shows that training is faster in it, else fp32. A stage is resumed in "
        "the precision that it was started in.",
    )
    checkpoint_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0, description="Seconds between checkpoints; 0 writes one after every step."
    )
    max_time: Duration | None = Field(
        None,
        description="Time limit, such as 9m or 1h30m: the stage stops at a checkpoint "
        "before it is over.",
    )
    accumulate: Count = Field(
        1,
        description="Number of parts that a batch is computed in, one after the other, to "
        "save memory.",
    )
    recompute: bool = Field(
        False,
        description="Compute activations again instead of keeping them: less memory, more time.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compile the blocks of teacher, supernet, and of networks in fine-tuning, "
        "segmentation and distillation alone: auto does so on CUDA, if a short measurement shows "
        "that it is faster. A stage is resumed as it was started.",
    )
    tensorboard: bool = Field(True, description="Write the metrics for TensorBoard as well.")
    track: Literal["none", "wandb", "mlflow"] = Field(
        "none",
        description="Send settings, metrics and results of trainings to Weights & Biases or "
        "MLflow as well.",
    )
    cache: bool = Field(
        True, description="Keep decoded images; otherwise every epoch decodes them again."
    )
    cache_size: Bytes | None = Field(
        None,
        description="Largest size of the cache of decoded images: 20GB. By default it has "
        "no limit.",
    )
    cache_dir: str | None = Field(
        None,
        description="Folder of decoded images, which several runs can share. By default OUT/data.",
    )
    strict: bool = Field(
        False, description="Stop at an image that cannot be decoded, instead of skipping it."
    )
    download: bool = Field(
        False, description="Let torchvision download a data set that is not in --root."
    )


class EvaluateSettings(Settings):
    """What a network is evaluated on."""

    split: Literal["test", "validation", "search", "supernet", "all"] | None = Field(
        None,
        description="Images to evaluate on: a split of the run, by default test; or, of DATA, all "
        "(the default) or those in a test split of its own.",
    )
    batch_size: Count = Field(
        128,
        description="Number of images that are computed at once, or windows of a segmenter (at "
        "most 16).",
    )
    scales: Scales = Field(
        "1",
        description="Factors, between commas, that a segmenter sees each image at, such as "
        "0.75,1,1.25; their probabilities are averaged.",
    )
    flip: bool = Field(False, description="Let a segmenter see each image mirrored as well.")

    def refuse_views(self) -> None:
        """Raise ConfigError if it says how a segmenter sees images."""
        if self.flip or self.scales != "1":
            raise ConfigError(
                "--scales and --flip are for segmenters, and this network is none: leave them out."
            )


class AllSettings(Settings):
    """The settings of every stage, each a section of a configuration file.

    `[validate]` is the attribute `validation`: pydantic's models have a method of that name.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    data: DataSettings = DataSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    teacher: TeacherSettings = TeacherSettings()
    supernet: SupernetSettings = SupernetSettings()
    search: SearchSettings = SearchSettings()
    refine: RefineSettings = RefineSettings()
    distill: DistillSettings = DistillSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    segment: SegmentSettings = SegmentSettings()
    validation: ValidateSettings = Field(ValidateSettings(), alias="validate")
