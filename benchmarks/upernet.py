"""A training step of a segmenter beside transformers' UperNet on a timm backbone of the same shape.

Command   python benchmarks/upernet.py [--device cuda --size 512 --batch 16 --channels 512]
Needs     transformers; no network, no images: all are noise, the same for both.
Does      forward, losses, backward and AdamW on one batch, in turns: some steps of ours, some of
          theirs, then the other way round. Theirs is `UperNetForSemanticSegmentation` with its
          auxiliary head. It has no neck, so timm's ViT has the one of BEiT with batch norms.
Shows     images/s of both, and the ratio of each turn: its median, least and most.
Limit     the median ratio is at least 1 on a quiet machine. Exit code 1 if not.
Differs   ours has group norms for batch norms, norms of the shallow maps, and dropout. What agrees
          gives equal outputs with copied weights: tests/nn/test_upernet.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import UperNetConfig, UperNetForSemanticSegmentation
from transformers.modeling_outputs import BackboneOutput
from transformers.models.upernet import modeling_upernet

from masktas.config import SegmentSettings
from masktas.data.joint import JointBatches
from masktas.nn.segmenter import depths_of_maps
from masktas.space import Architecture
from masktas.stages.common.tasks import Setup
from masktas.stages.plan.segmenting import Noise
from masktas.stages.segment.tasks import joint_augment, segmenter_network, segmenter_task
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime

DEFAULTS = {
    "width": 192, "depth": 12, "size": 224, "patch": 16, "batch": 2, "channels": 128,
    "classes": 150, "steps": 3, "turns": 7,
}  # fmt: skip
Step = Callable[[], Tensor]


class Pyramid(nn.Module):
    """timm's ViT with four maps at strides of 1/4, 1/2, 1 and 2 patches, as BEiT makes them."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        width = shape.embed_dim
        self.vit = VisionTransformer(
            img_size=shape.image_size, patch_size=shape.patch_size, embed_dim=width,
            depth=shape.depth, num_heads=shape.num_heads[0], mlp_ratio=shape.mlp_ratio[0],
            num_classes=0, global_pool="",
        )  # fmt: skip
        self.indices = [after - 1 for after in depths_of_maps(shape.depth)]
        self.channels = [width] * 4
        self.neck = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(width, width, 2, 2), nn.BatchNorm2d(width), nn.GELU(),
                    nn.ConvTranspose2d(width, width, 2, 2),
                ),
                nn.ConvTranspose2d(width, width, 2, 2), nn.Identity(), nn.MaxPool2d(2),
            ]
        )  # fmt: skip

    def forward_with_filtered_kwargs(self, pixels: Tensor, **_: Any) -> BackboneOutput:
        """Return the maps, as transformers asks a backbone for them."""
        once = sorted(set(self.indices))  # a shallow network gives a map twice
        found = self.vit.forward_intermediates(
            pixels, indices=once, norm=True, intermediates_only=True
        )
        maps = [found[once.index(at)] for at in self.indices]
        made = tuple(make(one) for make, one in zip(self.neck, maps, strict=True))
        return BackboneOutput(feature_maps=made)


def our_step(given: argparse.Namespace, runtime: Runtime) -> tuple[Step, Tensor, Tensor]:
    """Return a step of ours, and the images and masks that it sees."""
    shape = shape_of(given)
    settings = SegmentSettings(
        channels=given.channels, batch_size=given.batch, drop_path=0.0, scale=(1.0, 1.0)
    )
    setup = Setup(0, runtime, ALONE)
    batches = JointBatches(
        Noise(given.batch, (*shape.image_size, 3), given.classes),
        augment=joint_augment(settings, shape.image_size),
        batch_size=given.batch,
        seed=0,
        device=runtime.device,
    )
    network = segmenter_network(settings, shape, given.classes, None, setup)
    task = segmenter_task(settings, network, given.classes, batches, setup)
    inputs = task.inputs(0, slice(0, given.batch))

    def step() -> Tensor:
        loss = task.losses(task.module, inputs)["loss"]
        loss.backward()
        task.update(task.module)
        return loss

    return step, inputs[0], inputs[1]


def their_step(given: argparse.Namespace, runtime: Runtime, pixels: Tensor, target: Tensor) -> Step:
    """Return a step of transformers' UperNet on these images and masks."""
    backbone = Pyramid(shape_of(given))
    config = UperNetConfig(
        hidden_size=given.channels, num_labels=given.classes, auxiliary_in_channels=given.width
    )
    with patch.object(modeling_upernet, "load_backbone", lambda _: backbone):
        network = UperNetForSemanticSegmentation(config).to(runtime.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=runtime.device.type == "cuda" or None)

    def step() -> Tensor:
        with runtime.autocast():
            loss: Tensor = network(pixel_values=pixels, labels=target).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def shape_of(given: argparse.Namespace) -> Architecture:
    """Return the shape of both backbones."""
    return Architecture(
        embed_dim=given.width, num_heads=(given.width // 64,) * given.depth,
        mlp_ratio=(4,) * given.depth, head_dim=64, image_size=(given.size, given.size),
        patch_size=given.patch, num_classes=0,
    )  # fmt: skip


def pace(step: Step, count: int, batch: int) -> float:
    """Return images/s of some steps."""
    began = time.perf_counter()
    for _ in range(count):
        loss = step()
    loss.item()  # waits for the device
    return count * batch / (time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    runtime = Runtime.choose(given.device, "auto")
    torch.manual_seed(0)
    ours, pixels, target = our_step(given, runtime)
    theirs = their_step(given, runtime, pixels, target)
    for step in (ours, theirs):
        pace(step, 2, given.batch)  # warm-up
    paces: dict[str, list[float]] = {"masktas": [], "transformers": []}
    for turn in range(given.turns):
        sides = [("masktas", ours), ("transformers", theirs)]
        for name, step in sides[:: 1 if turn % 2 else -1]:
            paces[name].append(pace(step, given.steps, given.batch))
    ratios = sorted(a / b for a, b in zip(*paces.values(), strict=True))
    print(f"{runtime.describe()}")
    print("| network | images/s, median | least to most |")
    print("| --- | --- | --- |")
    for name, found in paces.items():
        print(f"| {name} | {statistics.median(found):.3g} | {min(found):.3g} to {max(found):.3g} |")
    middle = statistics.median(ratios)
    print(f"ratio {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, {given.turns} turns)")
    return int(middle < 1)


if __name__ == "__main__":
    sys.exit(main())
