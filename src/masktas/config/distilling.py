"""Settings of the trainings without labels: teacher, supernet, refinement, one network alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from masktas.config.fields import (
    Count,
    CropScale,
    EpochsOfRounds,
    Ratio,
    Settings,
    Share,
)
from masktas.config.masking import MaskRatioSettings
from masktas.config.searching import CostSettings
from masktas.config.training import StepSettings, TrainSettings
from masktas.errors import ConfigError


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
        "with all sizes equally likely; or one near the limits of the budget, which is the "
        "default if the budget has an upper limit.",
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

    Batches and optimiser are by default those of the supernet's training, see `of_supernet`.
    """

    batch_size: Count = Field(
        256, description="Number of images in a step. By default that of the supernet."
    )
    lr: Annotated[float, Field(gt=0)] = Field(
        1e-3,
        description="Peak learning rate of each round, for a batch of 256; it is scaled to the "
        "batch size. By default that of the supernet.",
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.05,
        description="Weight decay of weight matrices. By default that of the supernet.",
    )
    clip_grad: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Largest norm of the gradients; larger ones are scaled down. By default as for "
        "the supernet.",
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
        """Return them with batches, optimiser and masks of a supernet, where they set none."""
        names = StepSettings.model_fields.keys() - {"warmup_share"} - self.model_fields_set
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
    """Weight sharing, and the budget that the sampler `focus` trains near to (SPEC 6.4).

    With an upper limit and no sampler set, the sampler is `focus`.
    """

    @model_validator(mode="after")
    def _focus_on_a_budget(self) -> SupernetSettings:
        if "sampler" not in self.model_fields_set and self.limits_above:
            self.__dict__["sampler"] = "focus"  # stays a default: a later layer may set another
        return self

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
