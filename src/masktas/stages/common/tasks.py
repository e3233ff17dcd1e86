"""Training tasks from settings, for the stages and for `plan`, which measures them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from masktas.artifacts import SETTINGS, Stage
from masktas.config import (
    FinetuneSettings,
    MaskRatioSettings,
    RuntimeSettings,
    SegmentSettings,
    SupernetSettings,
    TeacherSettings,
    TrainSettings,
)
from masktas.config.finetuning import NO_RANDAUGMENT
from masktas.config.masking import PAPER_RATIO
from masktas.config.recipes import with_recipe
from masktas.console import Console
from masktas.data.batches import Augment, Batches
from masktas.data.joint import JointBatches
from masktas.data.randaugment import RandAugment
from masktas.errors import ConfigError
from masktas.files import read_json
from masktas.nn.mae import MaskedAutoencoder
from masktas.nn.patches import num_visible
from masktas.nn.student import MaskedStudent, StudentShape
from masktas.nn.supernet import Supernet
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.teacher import Teacher
from masktas.nn.units import Units, units_of
from masktas.nn.vit import ViT
from masktas.seeding import seed_for
from masktas.space import Architecture, BudgetedSpace, SearchSpace, params
from masktas.train.loop import LoopConfig
from masktas.train.optim.schedule import scaled_lr
from masktas.train.ranks import Ranks
from masktas.train.runtime import Runtime
from masktas.train.task import OptimRecipe
from masktas.train.tasks.classify import Classification, ClassifierRecipe
from masktas.train.tasks.cohort import CohortDistillation
from masktas.train.tasks.mae import MaskedAutoencoding, MaskedBatches
from masktas.train.tasks.supernet import MaskedDistillation, Sampler, focus_space, sampler
from masktas.train.tasks.supervised import SupervisedSharing

M = TypeVar("M", bound=MaskRatioSettings)


@dataclass(frozen=True, slots=True)
class Setup:
    """Seed, device and ranks that a training task runs with."""

    seed: int
    runtime: Runtime
    ranks: Ranks

    def generator(self, *key: str | int) -> torch.Generator:
        """Return a CPU generator for one purpose."""
        return torch.Generator().manual_seed(seed_for(self.seed, *key))


def with_mask_ratio(settings: M, total: int, stage: Stage | None, console: Console | None) -> M:
    """Return the settings with a mask ratio for the number of units, where they set none.

    Args:
        settings: of a supernet, or of ratings.
        total: number of units of an image.
        stage: to resume, if it was started: its ratio stays the paper's if it was, which
            earlier versions took for any number of units.
        console: where the ratio is shown, if it matters.
    """
    if settings.mask_ratio is not None:
        return settings
    ratio = settings.ratio_for(total)
    if stage is not None and stage.resumable:
        before = read_json(stage.folder / SETTINGS).get("settings", {})
        ratio = PAPER_RATIO if before.get("mask_ratio") == PAPER_RATIO else ratio
    if console is not None:
        visible = num_visible(total, ratio)
        console.say(f"Mask ratio {ratio:g}: {visible} of {total} patches are visible.")
    return settings.model_copy(update={"mask_ratio": ratio})


def teacher_architecture(
    settings: TeacherSettings, image_size: tuple[int, int], in_channels: int
) -> Architecture:
    """Return the teacher's shape, all blocks alike, without a head."""
    if settings.embed_dim % settings.num_heads:
        raise ConfigError(
            f"The teacher's embed_dim {settings.embed_dim} does not divide into "
            f"{settings.num_heads} heads: choose a num_heads that divides it."
        )
    return Architecture(
        embed_dim=settings.embed_dim,
        num_heads=(settings.num_heads,) * settings.depth,
        mlp_ratio=(settings.mlp_ratio,) * settings.depth,
        head_dim=settings.embed_dim // settings.num_heads,
        image_size=image_size,
        patch_size=settings.patch_size,
        in_channels=in_channels,
        num_classes=0,
    )


def teacher_task(
    settings: TeacherSettings,
    shape: Architecture,
    batches: Batches,
    setup: Setup,
    start: MaskedAutoencoder | None = None,
) -> tuple[MaskedAutoencoder, MaskedAutoencoding]:
    """Return a masked autoencoder in its initial state, and its training.

    `start` is one to train further, instead of random weights.
    """
    model = start or MaskedAutoencoder(
        shape, decoder_dim=settings.decoder_dim, decoder_depth=settings.decoder_depth
    )
    if start is None:
        model.init_weights(setup.generator("teacher"))
    task = MaskedAutoencoding(
        model.to(setup.runtime.device),
        _masked(batches, units_of(shape.image_size, shape.patch_size), settings.mask_ratio, setup),
        recipe(settings, batches),
        setup.runtime,
        setup.ranks,
    )
    return model, task


def supernet_task(
    settings: SupernetSettings,
    space: SearchSpace,
    units: Units,
    teacher: Teacher,
    batches: Batches,
    setup: Setup,
    candidates: BudgetedSpace | None = None,
) -> tuple[Supernet, MaskedDistillation]:
    """Return a supernet in its initial state, and its training; moves the teacher to the device.

    `candidates` are the networks within the budget, which the sampler `focus` needs.
    """
    device = setup.runtime.device
    teacher.to(device)
    supernet = Supernet(
        space,
        StudentShape(settings.decoder_dim, settings.decoder_depth, teacher.embed_dim, units.size),
    )
    supernet.init_weights(setup.generator("supernet"))
    task = MaskedDistillation(
        supernet.to(device),
        teacher,
        _masked(batches, units, settings.ratio_for(units.total), setup),
        recipe(settings, batches),
        setup.runtime,
        beta=settings.beta,
        draw=_sampler(settings, space, candidates),
        seed=setup.seed,
    )
    return supernet, task


def supervised_task(
    settings: SupernetSettings,
    space: SearchSpace,
    num_classes: int,
    target: Tensor,
    batches: Batches,
    setup: Setup,
    candidates: BudgetedSpace | None = None,
) -> tuple[SupervisedSupernet, SupervisedSharing]:
    """Return a supernet that labels train, in its initial state, and its training.

    `target [n]` are the classes of the images of `batches`; for `candidates` see `supernet_task`.
    """
    supernet = SupervisedSupernet(space, num_classes)
    supernet.init_weights(setup.generator("supernet"))
    task = SupervisedSharing(
        supernet.to(setup.runtime.device),
        batches,
        target,
        recipe(settings, batches),
        setup.runtime,
        draw=_sampler(settings, space, candidates),
        seed=setup.seed,
    )
    return supernet, task


def _sampler(
    settings: SupernetSettings, space: SearchSpace, candidates: BudgetedSpace | None
) -> Sampler:
    near = focus_space(candidates) if candidates and settings.sampler == "focus" else None
    return sampler(settings.sampler, space, near)


def cohort_task(
    settings: TrainSettings,
    students: Mapping[str, MaskedStudent],
    shape: StudentShape,
    teacher: Teacher,
    batches: Batches,
    setup: Setup,
    *,
    mask_ratio: float,
    pixels: bool,
    beta: float = 1.0,
    steps: int | None = None,
) -> CohortDistillation:
    """Return the training of a cohort; moves students and teacher to the device.

    Args:
        settings: of one round.
        students: by name, with initial weights.
        shape: of their decoders and projections.
        teacher: frozen.
        batches: of the images.
        setup: device and seed of the masks.
        mask_ratio: share of the patches that is masked.
        pixels: whether pixels are predicted too.
        beta: weight of the feature loss beside them (9).
        steps: number of steps, see `recipe`.
    """
    device = setup.runtime.device
    teacher.to(device)
    units = next(iter(students.values())).units
    return CohortDistillation(
        {name: student.to(device) for name, student in students.items()},
        shape,
        teacher,
        _masked(batches, units, mask_ratio, setup),
        recipe(settings, batches, steps),
        setup.runtime,
        pixels=pixels,
        beta=beta,
    )


def classifier_task(
    settings: FinetuneSettings,
    shape: Architecture,
    start: ViT | None,
    batches: Batches,
    target: Tensor,
    setup: Setup,
    *,
    inherit_head: bool = False,
) -> tuple[ViT, Classification]:
    """Return the network that is evaluated, and the fine-tuning that makes it.

    It starts from the weights of the network `start`, or from random ones. The head starts
    from random ones, or with `inherit_head` as that of `start`.
    """
    network = ViT(shape)
    network.init_weights(setup.generator("finetune"))
    if start is not None:
        given = start.state_dict().items()
        taken = {name: one for name, one in given if inherit_head or not name.startswith("head.")}
        network.load_state_dict(network.state_dict() | taken)
    task = Classification(
        network.to(setup.runtime.device),
        batches,
        target,
        _classifier_recipe(settings, batches),
        setup.runtime,
        drop_path=settings.drop_path,
        label_smoothing=settings.label_smoothing,
        ema=settings.ema,
        freeze=settings.freeze,
        seed=setup.seed,
        ranks=setup.ranks,
    )
    return task.evaluated, task


def finetuning_for(
    settings: FinetuneSettings, architecture: Architecture
) -> tuple[FinetuneSettings, str]:
    """Return the settings that a network is fine-tuned with, all of them set, and why.

    See `with_recipe`. The size that `auto` goes by does not depend on the number of classes.

    Raises:
        ConfigError: if they cannot be trained with.
    """
    size = params(architecture.replace(num_classes=0))
    resolved, why = with_recipe(settings, size, architecture.in_channels)
    augment(resolved)  # refuses a RandAugment that is none
    return resolved, why


def loop_config(
    label: str,
    settings: TrainSettings | SegmentSettings,
    batches: Batches | JointBatches,
    runtime: RuntimeSettings,
    steps: int | None = None,
) -> LoopConfig:
    """Return length and options of a training loop; `label` names it in messages.

    `steps` is the number of steps, if not that of whole epochs.
    """
    return LoopConfig(
        label=label,
        epochs=settings.epochs,
        steps_per_epoch=batches.steps_per_epoch,
        batch_size=settings.batch_size,
        checkpoint_seconds=runtime.checkpoint_seconds,
        accumulate=runtime.accumulate,
        clip_grad=settings.clip_grad,
        tensorboard=runtime.tensorboard,
        steps=steps,
    )


def augment(settings: TrainSettings) -> Augment:
    """Return how training batches are augmented.

    Raises:
        ConfigError: if the text of a RandAugment is none.
    """
    basic = Augment(settings.crop_scale, settings.flip, settings.color)
    if not isinstance(settings, FinetuneSettings):
        return basic
    text = settings.randaugment
    return replace(
        basic,
        randaugment=None if text == NO_RANDAUGMENT else RandAugment.parse(text),
        erasing=settings.erasing,
        mixup=settings.mixup,
        cutmix=settings.cutmix,
    )


def recipe(
    settings: TrainSettings | SegmentSettings,
    batches: Batches | JointBatches,
    steps: int | None = None,
) -> OptimRecipe:
    """Return the optimiser's settings, with the learning rate scaled to the batch size.

    `steps` is the number of steps of the training, if not that of whole epochs.
    """
    return OptimRecipe(
        lr=scaled_lr(settings.lr, settings.batch_size),
        weight_decay=settings.weight_decay,
        total_steps=steps or settings.epochs * batches.steps_per_epoch,
        warmup_share=settings.warmup_share,
    )


def _classifier_recipe(settings: FinetuneSettings, batches: Batches) -> ClassifierRecipe:
    shared = replace(recipe(settings, batches), min_lr=settings.min_lr)
    return ClassifierRecipe(
        **asdict(shared),
        optimizer=settings.optimizer,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        beta2=settings.beta2,
        layer_decay=settings.layer_decay,
    )


def _masked(batches: Batches, units: Units, mask_ratio: float, setup: Setup) -> MaskedBatches:
    return MaskedBatches(batches, units.size, num_visible(units.total, mask_ratio), setup.seed)
