"""Typed settings of each stage, with a default, a range and a description.

The command line's flags and the sections of a configuration file are made from these, and every
stage writes the resolved ones into its folder. Those of search and validation are in `searching`,
those of fine-tuning in `finetuning`, what all trainings share in `training`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from masktas.config.fields import (
    Bytes,
    Channels,
    Count,
    CropScale,
    Duration,
    EpochsOfRounds,
    ImageSize,
    PerChannel,
    Ratio,
    Settings,
    Share,
)
from masktas.config.finetuning import FinetuneSettings
from masktas.config.masking import MaskRatioSettings
from masktas.config.searching import CostSettings, SearchSettings, ValidateSettings
from masktas.config.segmenting import SegmentSettings
from masktas.config.training import StepSettings, TrainSettings
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
    """Where and how a stage runs; only seed and precision change the result."""

    seed: Annotated[int, Field(ge=0)] = Field(
        0, description="Seed of every random number; on a CPU, equal seeds give equal runs."
    )
    device: str = Field("auto", description="Device to run on: auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Precision of matrix products: auto is bf16 on CUDA and fp32 on a CPU."
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


class MaskedSettings(TrainSettings):
    """Settings of both masked stages: their decoder (SPEC 2 and 3)."""

    decoder_dim: Count = Field(
        128, description="Width of the decoder; each of its heads is 32 wide."
    )
    decoder_depth: Count = Field(2, description="Number of transformer blocks in the decoder.")


class TeacherSettings(MaskedSettings):
    """A masked autoencoder, pre-trained on the images (SPEC 2)."""

    mask_ratio: Ratio = Field(0.75, description="Share r of the patches that is masked.")
    patch_size: Count = Field(16, description="Side of a patch in pixels; it divides image_size.")
    embed_dim: Count = Field(384, description="Width of the teacher's tokens.")
    depth: Count = Field(12, description="Number of transformer blocks in the teacher.")
    num_heads: Count = Field(
        6, description="Number of attention heads in each block; it divides embed_dim."
    )
    mlp_ratio: Annotated[float, Field(gt=0)] = Field(
        4, description="Width of each MLP, divided by embed_dim."
    )
    init: str | None = Field(
        None,
        description="Weights to start from, with their shape: a file in the public MAE "
        "format, a folder of a Hugging Face ViTMAE, or a run folder.",
    )
    init_partial: bool = Field(
        False, description="Accept a checkpoint for --init that leaves tensors unfilled or unused."
    )


class AdoptedTeacher(Settings):
    """A trained teacher, used instead of one that is pre-trained on the images."""

    teacher: str | None = Field(
        None,
        description="Trained teacher to use: a run folder, an MAE file, a folder of a "
        "Hugging Face ViTMAE, timm:NAME, timm:NAME@FILE or hf-hub:ID.",
    )
    teacher_layer: int | None = Field(
        None,
        description="Block whose tokens are the target, after the final norm: from 1, or "
        "from the end if negative. By default the last.",
    )
    teacher_heads: Count | None = Field(
        None, description="Number of attention heads, for an MAE file of unusual width."
    )
    teacher_resize: bool = Field(
        False,
        description="Resize the teacher's positions to the student's grid even if patch "
        "sizes differ.",
    )
    teacher_partial: bool = Field(
        False,
        description="Accept a checkpoint for --teacher that leaves tensors unfilled or unused.",
    )


class SharingSettings(MaskRatioSettings, MaskedSettings, AdoptedTeacher):
    """Weight sharing by masked distillation (SPEC 3, Algorithm 1), whatever the budget."""

    space: str = Field(
        "small",
        description="Search space: tiny, small, base, wide, micro, wide-micro, demo, digits, or a "
        ".toml or .json file.",
    )
    mask_ratio: Ratio | None = Field(
        None,
        description="Share r of the patches that is masked. By default the paper's 0.9, or less "
        "if fewer than 6 would stay visible.",
    )
    beta: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Weight of the feature loss beside the pixel loss (9); 0 turns it off."
    )
    sampler: Literal["uniform", "sandwich", "budget", "focus"] = Field(
        "uniform",
        description="Networks that a step trains: one with every choice drawn uniformly (as "
        "in the paper); the largest, the smallest and two of those; one, "
        "with all sizes equally likely; or one near the limits of the budget.",
    )
    supervised: bool = Field(
        False,
        description="Train with labels instead of a teacher, as AutoFormer does: cross-entropy of "
        "whole images, by a head that all networks share.",
    )
    probes: Annotated[int, Field(ge=0)] = Field(
        10,
        description="Number of times, evenly over the epochs, that a few fixed networks are "
        "evaluated.",
    )
    probe_images: Count = Field(
        512, description="Number of validation images that these networks are evaluated on."
    )
    probe_accuracy: bool = Field(
        False,
        description="Also evaluate these networks by the accuracy of a linear classifier on their "
        "frozen features, from labels of the validation images; nothing is trained by them.",
    )


class RefineSettings(StepSettings):
    """A last training of the best networks, each by itself and without labels (SPEC 6.5).

    Batches are by default those of the supernet's training, see `of_supernet`.
    """

    batch_size: Count = Field(
        256, description="Number of images in a step. By default that of the supernet."
    )
    crop_scale: CropScale = Field(
        (0.2, 1.0),
        description="Smallest and largest share of an image's area that a random crop keeps. By "
        "default as for the supernet.",
    )
    flip: bool = Field(True, description="Mirror images at random. By default as for the supernet.")
    color: Share = Field(
        0.0,
        description="Largest random change of brightness, contrast and saturation. By default as "
        "for the supernet.",
    )
    warmup_share: Share = Field(
        0.1,
        description="Share of each round in which the learning rate rises linearly, before "
        "its cosine.",
    )
    rounds: EpochsOfRounds = Field(
        "1,1,2,4",
        description="Number of epochs of each round; after a round, the better half of the "
        "networks stays.",
    )
    pixel_rounds: Annotated[int, Field(ge=0)] = Field(
        2, description="Number of last rounds in which networks also learn to predict pixels (10)."
    )
    mask_ratio: Ratio | None = Field(
        None,
        description="Share r of the patches that is masked. By default that of the supernet.",
    )
    cohort: Count = Field(
        16, description="Number of the search's best networks that are refined, beside baselines."
    )
    diversity: Annotated[int, Field(ge=0)] = Field(
        3, description="Smallest number of genes in which these networks differ."
    )
    num_images: Count = Field(
        2000, description="Number of search images on which networks are compared after a round."
    )
    baselines: bool = Field(
        False,
        description="Train the search's baselines, random networks included, through all rounds, "
        "to compare them after fine-tuning.",
    )

    def of_supernet(self, supernet: SupernetSettings) -> RefineSettings:
        """Return them with batches, crops and masks of a supernet, where they set none."""
        names = {"batch_size", "crop_scale", "flip", "color"} - self.model_fields_set
        names |= {"mask_ratio"} if self.mask_ratio is None else set()
        return self.model_copy(update={name: getattr(supernet, name) for name in names})

    @property
    def epochs(self) -> tuple[int, ...]:
        """Number of epochs of each round."""
        return tuple(int(number) for number in self.rounds.split(","))

    def trains_pixels(self, number: int) -> bool:
        """Return whether pixels are predicted in a round, counted from 1."""
        return number > len(self.epochs) - self.pixel_rounds

    def of_round(self, number: int) -> TrainSettings:
        """Return the settings of a round's training, counted from 1."""
        shared = {name: getattr(self, name) for name in StepSettings.model_fields}
        return TrainSettings(epochs=self.epochs[number - 1], **shared)


class SupernetSettings(CostSettings, SharingSettings):
    """Weight sharing, and the budget that the sampler `focus` trains near to (SPEC 6.4)."""

    def _require_together(self) -> None:
        """Raise ConfigError unless there is an upper limit for `focus`, and for `focus` only.

        And unless there is a teacher to adopt or labels to learn from, not both.
        """
        if self.supervised and self.teacher is not None:
            raise ConfigError(
                f"--supervised trains with labels and needs no teacher: leave out --teacher "
                f"{self.teacher}, or --supervised."
            )
        focused = self.sampler == "focus"
        if focused and not self.limits_above:
            raise ConfigError(
                "--sampler focus trains networks near the budget, and there is none: give an "
                "upper limit such as --max-macs, or another --sampler."
            )
        if self.limits and not focused:
            raise ConfigError(
                f"--{next(iter(self.limits)).replace('_', '-')} is a limit of a search, and "
                f"--sampler {self.sampler} trains all sizes: leave it out, or give --sampler focus."
            )


class DistillSettings(MaskedSettings):
    """Masked distillation of one network alone, by the teacher of a run (SPEC 9).

    All but the length is by default as for the supernet's training, see `of_supernet`.
    """

    architecture: str = Field(
        "uniform",
        description="Network to train: uniform:384x12 (width x depth, then heads and MLP ratio if "
        "wanted: uniform:384x12x6x4), an architecture.json, or a baseline of OUT/search/main: "
        "uniform, house or best-uniform.",
    )
    beta: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Weight of the feature loss beside the pixel loss (9); 0 turns it off."
    )
    mask_ratio: Ratio = Field(0.9, description="Share r of the patches that is masked.")
    as_costly_as: str | None = Field(
        None,
        description="Run or stage folder whose operations are spent: of a run, those of supernet, "
        "search/main and refine/main. By default as many images are seen as by the supernet.",
    )

    def of_supernet(self, supernet: SupernetSettings) -> DistillSettings:
        """Return them with optimiser, images, masks and losses of a supernet, where none are set.

        Raises:
            ConfigError: if the length is given twice.
        """
        if self.as_costly_as is not None and "epochs" in self.model_fields_set:
            raise ConfigError(
                "--epochs and --as-costly-as both say how long to train: leave one of them out."
            )
        shared = {*MaskedSettings.model_fields, "mask_ratio", "beta"} - self.model_fields_set
        return self.model_copy(update={name: getattr(supernet, name) for name in shared})


class EvaluateSettings(Settings):
    """What a network is evaluated on."""

    split: Literal["test", "validation", "search", "supernet", "all"] | None = Field(
        None,
        description="Images to evaluate on: a split of the run, by default test; or, of DATA, all "
        "(the default) or those in a test split of its own.",
    )
    batch_size: Count = Field(128, description="Number of images that are computed at once.")


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
