"""The recipes of fine-tuning, in one table, each value with its source (docs/finetune.md).

A recipe lies below the configuration file and the flags: what they set is never changed. Learning
rates are for a batch of 256, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masktas.config.finetuning import NO_RANDAUGMENT, FinetuneSettings
from masktas.config.load import resolve
from masktas.errors import ConfigError
from masktas.formats import counted
from masktas.space import format_quantity

AUTO = "auto"
LARGE_PARAMS = 25_000_000  # from here on `auto` chooses `large` (SPEC 7)
# Of a recipe's published epochs: a shorter training does not profit from its augmentation. With 30
# epochs on 20,000 images `plain` was 7 points ahead of `small` (docs/results/transfer.md).
LONG_SHARE = 1 / 3
# What depends on images and machine rather than on the network: `auto` leaves the defaults.
OF_THE_DATA = ("epochs", "batch_size", "crop_scale")
AUGMENTED_CHANNELS = (1, 3)  # RandAugment's operations are of grey and coloured images
MOST_WARMUP = 0.2  # share of a training that is shorter than the recipe's; the default share


@dataclass(frozen=True, slots=True)
class FinetuneRecipe:
    """Published settings of fine-tuning.

    Attributes:
        source: who published them.
        values: settings by name; all others have their defaults.
        warmup_epochs: epochs in which the learning rate rises, at most `MOST_WARMUP` of all; None
            for the default share.
    """

    source: str
    values: Mapping[str, Any]
    warmup_epochs: int | None = None


# MAE (He and others, 2022). Its table 9 has lr 1e-3 and a layer decay of 0.75; these are the values
# of FINETUNE.md in facebookresearch/mae, which reach 83.6 % with ViT-B.
_MAE = {
    "epochs": 100,
    "batch_size": 1024,
    "optimizer": "adamw",
    "lr": 5e-4,
    "beta2": 0.999,
    "weight_decay": 0.05,
    "layer_decay": 0.65,
    "min_lr": 1e-6,
    "pool": "mean-norm",  # `fc_norm` in its code
    "drop_path": 0.1,
    "label_smoothing": 0.1,
    "crop_scale": (0.08, 1.0),  # timm's default, as all the recipes below
    "color": 0.0,  # timm leaves colours alone if there is a RandAugment
    "randaugment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
}
# MAE-Lite (Wang and others, 2023), projects/eval_tools/finetuning_exp.py over
# finetuning_mae_exp.py: the weak augmentation that suits networks of 5.7M parameters.
_MAE_LITE = _MAE | {
    "epochs": 300,
    "lr": 1e-3,
    "layer_decay": 0.85,
    "drop_path": 0.0,
    "label_smoothing": 0.0,
    "randaugment": "rand-m10-mstd0.5-inc1",
    "erasing": 0.0,
    "mixup": 0.2,
    "cutmix": 0.0,
}

RECIPES: dict[str, FinetuneRecipe] = {
    "plain": FinetuneRecipe("masktas", {}),
    "small": FinetuneRecipe("MAE-Lite, for ViT-Tiny", _MAE_LITE, warmup_epochs=5),
    "large": FinetuneRecipe("MAE, for ViT-B", _MAE, warmup_epochs=5),
    # The paper states optimiser, weight decay, epochs, batch, rate, drop path; the rest is MAE's.
    "paper": FinetuneRecipe(
        "MaskTAS, 3.1 and appendix A",
        _MAE
        | {
            "epochs": 100,
            "batch_size": 2048,
            "lr": 5e-3 * 256 / 2048,  # 5e-3 for the whole batch
            "weight_decay": 0.05,
            "drop_path": 0.1,
        },
        warmup_epochs=5,
    ),
    # MAE-Lite's finetuning_transfer_exp.py and scripts/transfer.sh: CIFAR-100 with lr 0.1, other
    # data from 0.03, for a batch of 512; crops and flips only.
    "transfer": FinetuneRecipe(
        "MAE-Lite, transfer",
        _MAE_LITE
        | {
            "epochs": 50,
            "batch_size": 512,
            "optimizer": "sgd",
            "momentum": 0.9,
            "lr": 0.03 * 256 / 512,
            "weight_decay": 0.0,
            "layer_decay": 0.75,
            "clip_grad": 1.0,
            "randaugment": "none",
            "mixup": 0.0,
        },
        warmup_epochs=10,
    ),
    # The authors of DeiT on facebookresearch/deit#45: "We remove random erasing and stochastic
    # depth. All other elements are the same as for training on ImageNet" (main.py's defaults).
    "deit-transfer": FinetuneRecipe(
        "DeiT, transfer (facebookresearch/deit#45)",
        {
            "epochs": 1000,
            "batch_size": 768,
            "optimizer": "sgd",
            "momentum": 0.9,
            "nesterov": True,  # timm's `sgd`, which DeiT asks for by name
            "lr": 0.01 * 256 / 768,  # 0.01 after scaling (deit#141)
            "weight_decay": 1e-4,
            "min_lr": 1e-5,
            "pool": "cls",
            "drop_path": 0.0,
            "label_smoothing": 0.1,
            "crop_scale": (0.08, 1.0),
            "randaugment": "rand-m9-mstd0.5-inc1",
            "erasing": 0.0,
            "mixup": 0.8,
            "cutmix": 1.0,
        },
        warmup_epochs=5,
    ),
    # DINO's eval_linear.py, over the mean of the patches instead of class tokens.
    "linear": FinetuneRecipe(
        "DINO, linear evaluation",
        {
            "freeze": True,
            "epochs": 100,
            "batch_size": 1024,
            "optimizer": "sgd",
            "momentum": 0.9,
            "lr": 1e-3,
            "weight_decay": 0.0,
            "warmup_share": 0.0,
            "drop_path": 0.0,
            "label_smoothing": 0.0,
            "crop_scale": (0.08, 1.0),
        },
    ),
}


def with_recipe(
    settings: FinetuneSettings, num_params: int, in_channels: int = 3
) -> tuple[FinetuneSettings, str]:
    """Return the settings over those of their recipe, all of them set, and why in a sentence.

    Args:
        settings: what was set explicitly lies over the recipe.
        num_params: parameters of the network without a head; `auto` chooses by them and by the
            number of epochs.
        in_channels: of the images; a recipe's RandAugment is left out if it does not know them.

    Raises:
        ConfigError: if the smallest learning rate is above the largest, or a RandAugment was set
            for images that it does not know.
    """
    is_auto = settings.recipe == AUTO
    name, why = _chosen(num_params, settings.epochs) if is_auto else (settings.recipe, "")
    recipe = RECIPES[name]
    left_out: tuple[str, ...] = OF_THE_DATA if is_auto else ()
    augments = recipe.values.get("randaugment", NO_RANDAUGMENT) != NO_RANDAUGMENT
    if augments and in_channels not in AUGMENTED_CHANNELS:
        left_out += ("randaugment",)
        why += f", without its RandAugment for images of {in_channels} channels"
    values = {key: value for key, value in recipe.values.items() if key not in left_out}
    full = resolve(FinetuneSettings, values, settings, {"recipe": name})
    _require_possible(full, in_channels)
    if recipe.warmup_epochs is not None and "warmup_share" not in settings.model_fields_set:
        share = min(MOST_WARMUP, recipe.warmup_epochs / full.epochs)
        full = full.model_copy(update={"warmup_share": share})
    length = f"{counted(full.epochs, 'epoch')} in batches of {full.batch_size}"
    if is_auto and "epochs" in recipe.values:
        length += f" (published: {recipe.values['epochs']} of {recipe.values['batch_size']})"
    because = f": {why.removeprefix(', ')}" if why else ""
    sentence = f"Recipe {name} ({recipe.source}){because}; {length}."
    return resolve(FinetuneSettings, full.model_dump()), sentence


def _require_possible(full: FinetuneSettings, in_channels: int) -> None:
    """Raise ConfigError if resolved settings contradict each other or the images."""
    peak = full.lr * full.batch_size / 256
    if full.min_lr > peak:
        raise ConfigError(
            f"min_lr is {full.min_lr:g}, above the peak learning rate of {peak:.3g} (lr "
            f"{full.lr:g} for 256 images, batches of {full.batch_size}): choose a smaller --min-lr."
        )
    if full.randaugment != NO_RANDAUGMENT and in_channels not in AUGMENTED_CHANNELS:
        raise ConfigError(
            f"RandAugment {full.randaugment} is for images of 1 or 3 channels, and these have "
            f"{in_channels}: give --randaugment {NO_RANDAUGMENT}."
        )


def _chosen(num_params: int, epochs: int) -> tuple[str, str]:
    """Return the recipe that suits a network's size and the length of its training, and why."""
    is_small, limit = num_params < LARGE_PARAMS, format_quantity(LARGE_PARAMS)
    name = "small" if is_small else "large"
    published = RECIPES[name].values["epochs"]
    if epochs < LONG_SHARE * published:
        few = counted(epochs, "epoch")
        return "plain", f"{few}, less than a third of the {published} of recipe {name}"
    size = f"{format_quantity(num_params)} parameters without the head"
    return name, f"{size} are {'fewer than' if is_small else 'at least'} {limit}"
