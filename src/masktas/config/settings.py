"""One typed set of settings for each stage: a default, a range and a sentence for every one.

The command line makes its flags from these, a configuration file its sections, and every
stage writes the resolved ones into its folder. Those of search and validation: `searching`.
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
    ImageSize,
    PerChannel,
    Ratio,
    Settings,
    Share,
)
from masktas.config.searching import SearchSettings, ValidateSettings


class DataSettings(Settings):
    """Which images, how large, and how they are divided."""

    image_size: ImageSize | None = Field(
        None,
        description="Pixels of the images trained on: 224, or height x width: 96x160; from the "
        "space if unset.",
    )
    in_channels: Channels | None = Field(
        None,
        description="1 for grey images, 3 for colour, 4 with transparency, or what the files "
        "have; from the space if unset.",
    )
    white: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="The value that is white, for files that use less than their type holds: 4095 "
        "for 12 bits in 16.",
    )
    mean: PerChannel | None = Field(
        None, description="Mean of each channel in [0, 1]: 0.5,0.5,0.5; measured if unset."
    )
    std: PerChannel | None = Field(
        None, description="Standard deviation of each channel; measured if unset."
    )
    root: str | None = Field(
        None, description="Folder of torchvision's files, for DATA such as cifar10 or imagenet."
    )
    image_column: str | None = Field(
        None, description="Column of a table that holds the images; found if unset."
    )
    label_column: str | None = Field(
        None, description="Column of a table that holds the labels; found if unset."
    )
    limit: Count | None = Field(
        None, description="Use this many images, evenly spread over the source; all if unset."
    )
    search_share: Ratio = Field(0.05, description="Share of the images held out for the search.")
    validation_share: Ratio = Field(0.05, description="Share held out to watch fine-tuning.")
    test_share: Ratio = Field(
        0.1, description="Share held out as test split, where the source does not name its own."
    )


class RuntimeSettings(Settings):
    """Where and how a stage runs; only seed and precision change what is learnt."""

    seed: Annotated[int, Field(ge=0)] = Field(
        0, description="Names every random number: same seed, same run (on a CPU)."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Of matrix products: auto is bf16 on CUDA and fp32 on CPU."
    )
    checkpoint_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0, description="Seconds between checkpoints; 0 for one after every step."
    )
    max_time: Duration | None = Field(
        None, description="Stop cleanly, at a checkpoint, before this time is over: 9m, 1h30m."
    )
    accumulate: Count = Field(
        1, description="Parts that a batch is computed in, one after the other, to save memory."
    )
    recompute: bool = Field(
        False,
        description="Compute activations again instead of keeping them: less memory, more time.",
    )
    tensorboard: bool = Field(True, description="Write what is logged for TensorBoard too.")
    cache: bool = Field(
        True, description="Keep images decoded; else they are decoded in every epoch."
    )
    cache_size: Bytes | None = Field(
        None, description="Bytes of decoded images to keep, at most: 20GB; all if unset."
    )
    cache_dir: str | None = Field(
        None, description="Where decoded images are kept, for several runs; OUT/data if unset."
    )
    strict: bool = Field(
        False, description="Stop at an image that cannot be decoded, instead of skipping it."
    )
    download: bool = Field(
        False, description="Let torchvision download a data set that is not in --root."
    )


class TrainSettings(Settings):
    """What every training stage has."""

    epochs: Count = Field(100, description="Passes over the images.")
    batch_size: Count = Field(
        256, description="Images of a step, over all processes and accumulated parts."
    )
    lr: Annotated[float, Field(gt=0)] = Field(
        1e-3, description="Peak learning rate for a batch of 256; scaled to the batch size."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.05, description="Of weight matrices; never of norms, biases, positions, class token."
    )
    warmup_share: Share = Field(
        0.2, description="Share of the epochs in which the rate rises linearly, before its cosine."
    )
    clip_grad: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Scale gradients down to this norm; not at all if unset."
    )
    crop_scale: CropScale = Field(
        (0.2, 1.0), description="Least and most of an image's area that a random crop keeps."
    )
    flip: bool = Field(True, description="Mirror images at random, left to right.")
    color: Share = Field(
        0.0,
        description="Most by which brightness, contrast and saturation are changed at random: 0.4.",
    )


class MaskedSettings(TrainSettings):
    """What both masked stages have: a masking ratio and a decoder (SPEC 2 and 3)."""

    mask_ratio: Ratio = Field(0.75, description="Share r of the patches that is hidden.")
    decoder_dim: Count = Field(128, description="Width of the decoder; its heads are 32 wide.")
    decoder_depth: Count = Field(2, description="Transformer blocks of the decoder.")


class TeacherSettings(MaskedSettings):
    """A masked autoencoder, pre-trained on the images (SPEC 2)."""

    patch_size: Count = Field(16, description="Side of a patch in pixels; divides image_size.")
    embed_dim: Count = Field(384, description="Width of the teacher.")
    depth: Count = Field(12, description="Transformer blocks of the teacher.")
    num_heads: Count = Field(
        6, description="Attention heads of each block; embed_dim divides by it."
    )
    mlp_ratio: Annotated[float, Field(gt=0)] = Field(4, description="MLP width over embed_dim.")
    init: str | None = Field(
        None,
        description="Start from these weights, and take the shape from them: a file in the public "
        "MAE format, a folder of a Hugging Face ViTMAE, or a run of ours.",
    )
    init_partial: bool = Field(
        False, description="Start from a checkpoint that leaves tensors unfilled or unused."
    )


class AdoptedTeacher(Settings):
    """A teacher that is there already, instead of one pre-trained on the images."""

    teacher: str | None = Field(
        None,
        description="A teacher to adopt: a run of ours, a file in the public MAE format, a folder "
        "of a Hugging Face ViTMAE, or a timm model: timm:NAME, timm:NAME@FILE, hf-hub:ID.",
    )
    teacher_layer: int | None = Field(
        None,
        description="Block whose tokens are the target, after the final norm: from 1, or from the "
        "end where negative; the last if unset.",
    )
    teacher_heads: Count | None = Field(
        None, description="Attention heads of an MAE file of unusual width, which does not tell."
    )
    teacher_resize: bool = Field(
        False,
        description="Resize its positions to the student's grid also where patch sizes differ.",
    )
    teacher_partial: bool = Field(
        False, description="Take a checkpoint that leaves tensors unfilled or unused."
    )


class SupernetSettings(MaskedSettings, AdoptedTeacher):
    """Weight sharing by masked distillation (SPEC 3, Algorithm 1)."""

    space: str = Field(
        "small", description="tiny, small, base, micro, demo, or a .toml or .json file."
    )
    mask_ratio: Ratio = Field(0.9, description="Share r of the patches that is hidden.")
    beta: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Weight of the feature loss beside the pixel loss (9); 0 turns it off."
    )
    sampler: Literal["uniform", "sandwich", "budget"] = Field(
        "uniform",
        description="What a step trains: one network, each choice drawn uniformly (the paper's); "
        "the largest, the smallest and two such; or one, all sizes equally likely.",
    )
    probes: Annotated[int, Field(ge=0)] = Field(
        10, description="Times, evenly over the epochs, that fixed networks are watched."
    )
    probe_images: Count = Field(512, description="Validation images they are watched on.")


class FinetuneSettings(TrainSettings):
    """Training with labels (SPEC 5)."""

    init: Literal["inherit", "scratch"] = Field(
        "inherit", description="Start from the supernet's slice, or from random weights."
    )
    pool: Literal["mean", "cls"] = Field(
        "mean", description="The head looks at the mean of the patches, or at the class token."
    )
    drop_path: Share = Field(
        0.1, description="Chance that a block is left out, rising linearly to this in the last."
    )
    label_smoothing: Share = Field(0.1, description="Share of the target spread over all classes.")
    crop_scale: CropScale = Field(
        (0.35, 1.0), description="Least and most of an image's area that a random crop keeps."
    )


class AllSettings(Settings):
    """Every stage's settings: what a configuration file may hold, one section each.

    `[validate]` is the attribute `validation`: pydantic's models have a method of that name.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    data: DataSettings = DataSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    teacher: TeacherSettings = TeacherSettings()
    supernet: SupernetSettings = SupernetSettings()
    search: SearchSettings = SearchSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    validation: ValidateSettings = Field(ValidateSettings(), alias="validate")
