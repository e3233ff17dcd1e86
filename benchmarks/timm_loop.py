"""timm's own training of a fine-tuned network, with its functions and a plain loop, beside ours.

Command   python benchmarks/timm_loop.py RUN NAME [--epochs 30] [--turns 0]
Needs     RUN/finetune/NAME of `masktas finetune` without EMA and SGD, from inherited weights.
Does      fine-tunes the same network from the same weights on the same images with the same
          recipe, but by timm: `create_model`, `create_transform`, `Mixup`, its losses,
          `create_optimizer_v2` with its layer decay, `CosineLRScheduler`; draws are timm's. The
          epoch that is best by validation is tested, as ours is. Then the steps of both trainings,
          images read and augmented in them, take turns in this process.
Shows     top-1 on validation and test images, timm's and ours; images/s, and the median and the
          quartiles of timm's time over ours. `--epochs 0` leaves timm's training out.
Limit     none: the accuracies should differ by no more than two seeds do.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.networks import timm_network
from peers.turns import OURS, Contender, in_turns, quartiles, ratio
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
from masktas.stages.common.tasks import classifier_task
from masktas.stages.finetune import check
from masktas.train.networks import load_network
from masktas.train.ranks import ALONE
from masktas.train.step import train_step

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


def timm_step(
    network: nn.Module,
    train_images: Labelled,
    settings: FinetuneSettings,
    transform: Any,
    num_classes: int,
) -> Callable[[int], None]:
    """Return timm's training of a network, a step at a time."""
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
    order = torch.empty(0, dtype=torch.long)

    def run(step: int) -> None:
        nonlocal order
        number = step % per_epoch
        if number == 0 or not len(order):
            order = torch.randperm(len(pictures))
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

    return run


def train(
    network: nn.Module,
    run: Callable[[int], None],
    held_out: tuple[Tensor, Tensor],
    epochs: int,
    per_epoch: int,
) -> tuple[nn.Module, float]:
    """Train; return the network of the best epoch by validation, and its top-1."""
    best, kept = -1.0, network
    for epoch in range(epochs):
        for number in range(per_epoch):
            run(epoch * per_epoch + number)
        top1 = accuracy(network, *held_out)
        print(f"epoch {epoch + 1}: validation {top1:.2%}", flush=True)
        if top1 > best:
            best, kept = top1, deepcopy(network)
    return kept, best


def our_step(
    context: Context,
    store: ImageStore,
    labels: list[list[int]],
    shape: Architecture,
    start: Path,
    settings: FinetuneSettings,
) -> Callable[[int], None]:
    """Return our training of the same network, a step at a time."""
    batches = context.batches(store, "supernet", "search", settings=settings)
    target = labels_of(labels, batches.images)
    _, task = classifier_task(settings, shape, load_network(start), batches, target, context.setup)

    def run(step: int) -> None:
        train_step(task, step, ALONE, clip_grad=settings.clip_grad)

    return run


def speeds(steps: dict[str, Callable[[int], None]], seconds: float, batch: int) -> None:
    """Time the steps of both in turns and print images/s."""
    contenders = {name: Contender(name, "fp32", step) for name, step in steps.items()}
    times = in_turns(contenders, seconds, lambda: None, untimed=1)
    print("| training | images/s (quartiles) | time / masktas (quartiles) |")
    print("| --- | --- | --- |")
    for name, its in times.items():
        low, middle, high = (batch / one for one in reversed(quartiles(its)))
        of_ours = (
            "" if name == OURS else "{1:.2f} ({0:.2f} to {2:.2f})".format(*ratio(its, times[OURS]))
        )
        print(f"| {name} | {middle:.0f} ({low:.0f} to {high:.0f}) | {of_ours} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--epochs", type=int, help="fewer than NAME has, to try it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turns", type=float, default=60.0, help="seconds of steps in turns")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    random.seed(given.seed)  # timm draws crops, RandAugment and erasing from it
    np.random.seed(given.seed)  # noqa: NPY002 - timm draws Mixup from it
    context = Context(given.run, RuntimeSettings(precision="fp32"), None)
    store, labels, shape = opened(context, given.name)
    stage = context.run.finetune(given.name)
    ours = stage.manifest()
    settings = FinetuneSettings(**ours["settings"]["settings"])
    if settings.ema or settings.optimizer != "adamw" or settings.init != "inherit":
        raise SystemExit(f"{stage.folder}: with EMA, SGD or from scratch; this compares neither.")
    if given.epochs is not None:
        settings = settings.model_copy(update={"epochs": max(1, given.epochs)})
    seen = {name: tuple(one) for name, one in store.statistics.items()}
    transform = create_transform(
        shape.image_size[0], is_training=True, scale=settings.crop_scale, ratio=(3 / 4, 4 / 3),
        hflip=0.5 if settings.flip else 0.0, color_jitter=settings.color or None,
        interpolation="bilinear", re_prob=settings.erasing, re_mode="pixel",
        auto_augment=None if settings.randaugment == "none" else settings.randaugment, **seen,
    )  # fmt: skip
    whole = create_transform(shape.image_size[0], crop_pct=1.0, interpolation="bilinear", **seen)

    def pixels_of(split: str) -> tuple[Tensor, Tensor]:
        pictures, target = as_pictures(store.images(split), labels)
        size = shape.image_size[0]
        edge = (pictures[0].width - size) // 2  # a crop of the middle, as ours
        cut = [one.crop((edge, edge, edge + size, edge + size)) for one in pictures]
        return torch.stack([whole(one) for one in cut]), target

    start = (stage.folder / ours["parents"]["weights"]["file"]).parent
    network = filled(shape, start, settings.drop_path)
    network.train()
    images = as_pictures(store.images("supernet", "search"), labels)
    theirs = timm_step(network, images, settings, transform, shape.num_classes)
    per_epoch = len(images[0]) // settings.batch_size
    print("| training | best validation | test |")
    print("| --- | --- | --- |")
    if given.epochs != 0:
        best, top1 = train(network, theirs, pixels_of("validation"), settings.epochs, per_epoch)
        print(f"| timm | {top1:.2%} | {accuracy(best, *pixels_of('test')):.2%} |")
    print(f"| masktas | {ours['validation']['top1']:.2%} | {ours['test']['top1']:.2%} |")
    if given.turns:
        mine = our_step(context, store, labels, shape, start, settings)
        speeds({OURS: mine, "timm": theirs}, given.turns, settings.batch_size)


if __name__ == "__main__":
    main()
