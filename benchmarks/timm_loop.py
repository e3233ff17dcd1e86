"""timm's own training of a fine-tuned network, with its functions and a plain loop, beside ours.

Command   python benchmarks/timm_loop.py RUN NAME [--epochs 30]
Needs     RUN/finetune/NAME of `masktas finetune` without EMA and SGD, from inherited weights.
Does      fine-tunes the same network from the same weights on the same images with the same
          recipe, but by timm: `create_model`, `create_transform`, `Mixup`, its losses,
          `create_optimizer_v2` with its layer decay, `CosineLRScheduler`; draws are timm's. The
          epoch that is best by validation is tested, as ours is.
Shows     top-1 on validation and test images and images/s of training, timm's and ours.
Limit     none: the accuracies should differ by no more than two seeds do.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.networks import timm_network
from PIL import Image
from timm.data import create_transform
from timm.data.mixup import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

import masktas.timm
from masktas.config import FinetuneSettings, RuntimeSettings
from masktas.data.store.image_store import Images, ImageStore
from masktas.nn.timm_weights import to_timm
from masktas.space import Architecture
from masktas.stages.common.images import labels_of
from masktas.stages.common.stage import Context
from masktas.stages.finetune import check
from masktas.train.networks import load_network

Labelled = tuple[list[Image.Image], Tensor]


def opened(context: Context, name: str) -> tuple[ImageStore, list[list[int]], Architecture]:
    """Open the images of RUN/finetune/NAME; return them, their labels, and the architecture."""
    stage = context.run.finetune(name)
    shape = Architecture.from_dict(stage.manifest()["settings"]["architecture"])
    images = context.images_recorded(stage, None, None)
    labels, _ = check(images, shape)
    allowed = ("supernet", "search", "validation", "test")
    return context.open_images(images, allowed=allowed), labels, shape


def as_pictures(images: Images, labels: list[list[int]]) -> Labelled:
    """Return all images of a split as PIL images, and their classes."""
    pixels = images.read(np.arange(len(images)))
    return [Image.fromarray(one) for one in pixels], labels_of(labels, images)


def filled(shape: Architecture, folder: Path, drop_path: float) -> nn.Module:
    """Build the network as timm has it, with the weights in a folder but for the head."""
    network = timm_network(shape, drop_path)
    pool, fc_norm = masktas.timm.POOLING[shape.pool]
    weights = to_timm(load_network(folder))
    if fc_norm:  # the last norm then follows the pooling
        weights = {
            f"fc_{name}" if name.startswith("norm.") else name: tensor
            for name, tensor in weights.items()
        }
    network.load_state_dict(weights)
    network.reset_classifier(shape.num_classes, pool)  # a new head, as ours
    return network


def accuracy(network: nn.Module, pixels: Tensor, target: Tensor) -> float:
    """Return top-1."""
    network.eval()
    with torch.no_grad():
        found = torch.cat([network(part).argmax(dim=1) for part in pixels.split(500)])
    network.train()
    return float((found == target).float().mean())


def train(
    network: nn.Module,
    train_images: Labelled,
    held_out: tuple[Tensor, Tensor],
    settings: FinetuneSettings,
    transform: Any,
    num_classes: int,
) -> tuple[nn.Module, float, float]:
    """Train as the settings say; return the best epoch's network, its top-1, and images/s."""
    pictures, target = train_images
    batch, per_epoch = settings.batch_size, len(pictures) // settings.batch_size
    total = settings.epochs * per_epoch
    optimizer = create_optimizer_v2(
        network, opt="adamw", lr=settings.lr * batch / 256, weight_decay=settings.weight_decay,
        betas=(0.9, settings.beta2),
        layer_decay=settings.layer_decay if settings.layer_decay < 1 else None,
    )  # fmt: skip
    scheduler = CosineLRScheduler(
        optimizer, t_initial=total, lr_min=settings.min_lr, t_in_epochs=False,
        warmup_t=round(settings.warmup_share * total), warmup_prefix=True,
    )  # fmt: skip
    mixes = settings.mixup > 0 or settings.cutmix > 0
    mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=settings.label_smoothing,
                num_classes=num_classes) if mixes else None  # fmt: skip
    loss_of = (
        SoftTargetCrossEntropy() if mixes else LabelSmoothingCrossEntropy(settings.label_smoothing)
    )
    best, kept, seconds, step = -1.0, network, 0.0, 0
    for epoch in range(settings.epochs):
        began = time.monotonic()
        order = torch.randperm(len(pictures))
        for number in range(per_epoch):
            rows = order[number * batch : (number + 1) * batch]
            pixels, classes = torch.stack([transform(pictures[row]) for row in rows]), target[rows]
            if mix is not None:
                pixels, classes = mix(pixels, classes)
            scheduler.step_update(step)
            optimizer.zero_grad()
            loss_of(network(pixels), classes).backward()
            if settings.clip_grad:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_grad)
            optimizer.step()
            step += 1
        seconds += time.monotonic() - began
        top1 = accuracy(network, *held_out)
        rate = (epoch + 1) * per_epoch * batch / seconds
        print(f"epoch {epoch + 1}: validation {top1:.2%}, {rate:.0f} images/s", flush=True)
        if top1 > best:
            best, kept = top1, deepcopy(network)
    return kept, best, settings.epochs * per_epoch * batch / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--epochs", type=int, help="fewer than NAME has, to try it out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    np.random.seed(given.seed)  # noqa: NPY002 - timm draws Mixup from it
    context = Context(given.run, RuntimeSettings(precision="fp32"), None)
    store, labels, shape = opened(context, given.name)
    stage = context.run.finetune(given.name)
    ours = stage.manifest()
    settings = FinetuneSettings(**ours["settings"]["settings"])
    if settings.ema or settings.optimizer != "adamw" or settings.init != "inherit":
        raise SystemExit(f"{stage.folder}: with EMA, SGD or from scratch; this compares neither.")
    if given.epochs:
        settings = settings.model_copy(update={"epochs": given.epochs})
    seen = {name: tuple(one) for name, one in store.statistics.items()}
    transform = create_transform(
        shape.image_size[0], is_training=True, scale=settings.crop_scale, ratio=(3 / 4, 4 / 3),
        hflip=0.5 if settings.flip else 0.0, color_jitter=settings.color or None,
        interpolation="bicubic", re_prob=settings.erasing, re_mode="pixel",
        auto_augment=None if settings.randaugment == "none" else settings.randaugment, **seen,
    )  # fmt: skip
    whole = create_transform(shape.image_size[0], crop_pct=1.0, interpolation="bicubic", **seen)

    def pixels_of(split: str) -> tuple[Tensor, Tensor]:
        pictures, target = as_pictures(store.images(split), labels)
        size = shape.image_size[0]
        edge = (pictures[0].width - size) // 2  # a crop of the middle, as ours
        cut = [one.crop((edge, edge, edge + size, edge + size)) for one in pictures]
        return torch.stack([whole(one) for one in cut]), target

    start = (stage.folder / ours["parents"]["weights"]["file"]).parent
    network = filled(shape, start, settings.drop_path)
    network.train()
    best, top1, rate = train(
        network, as_pictures(store.images("supernet", "search"), labels), pixels_of("validation"),
        settings, transform, shape.num_classes,
    )  # fmt: skip
    test = accuracy(best, *pixels_of("test"))
    cost = ours["cost"]
    print("| training | validation | test | images/s, evaluation included in ours |")
    print("| --- | --- | --- | --- |")
    print(f"| timm | {top1:.2%} | {test:.2%} | {rate:.0f} |")
    print(
        f"| masktas | {ours['validation']['top1']:.2%} | {ours['test']['top1']:.2%} | "
        f"{cost['images'] / cost['seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
