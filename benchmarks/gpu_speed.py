"""The speeds of benchmarks/gpu.py: steps of encoder, supernet, masked autoencoder and classifier.

Flops are those of the matrix products, counted in closed form, so the share of the peak is that of
`Runtime.peak_flops`, a large matrix product measured in the same process.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from gpu_rows import Finding
from timm import create_model
from torch import Tensor, nn
from torch.nn import functional as F

import masktas.timm
from masktas.config import AllSettings
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.timm_weights import to_timm
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace, cost
from masktas.stages.plan.stage import task_on_noise
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

TURN = 8  # steps between two waits for the device: it works while the host prepares the next ones
DRAWN = 16  # networks of P1
LOGIT_LIMIT = 1e-3


@dataclass(frozen=True)
class Batches:
    """Images of a step of each part."""

    encoder: int
    supernet: int
    teacher: int
    classifier: int


@dataclass(frozen=True)
class Speeds:
    """The measurements, each a method that returns a `Finding`.

    Attributes:
        runtime: device and precision.
        settings: of the stages: their networks are those of a run.
        batches: images of a step.
        seconds: at most, of each series of steps.
    """

    runtime: Runtime
    settings: AllSettings
    batches: Batches
    seconds: float

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace.load(self.settings.supernet.space)

    def peak(self, _: float) -> Finding:
        """Measure the peak of matrix products."""
        peak = self.runtime.peak_flops()
        about = self.runtime.describe()
        result = f"{peak / 1e12:.4g} TFLOP/s in {about['precision']} on {about['name']}"
        return Finding(result, numbers={"peak_flops": peak, **about})

    def encoder(self, left: float) -> Finding:
        """P1: forward and backward pass of random subnets' encoders, all patches visible."""
        shared = SupervisedSupernet(self.space, cost.counted_classes(self.space.largest))
        shared.init_weights(torch.Generator().manual_seed(0))
        shared.to(self.runtime.device)
        rng = random.Random(0)
        drawn = [self.space.sample(rng) for _ in range(DRAWN)]
        patches = max(one.num_patches for one in drawn)
        numbers = shared.units.size**2 * self.space.in_channels
        seen = self._noise(self.batches.encoder, patches, numbers)
        ids = torch.arange(patches, device=self.runtime.device).expand(len(seen), -1)

        def step(number: int) -> None:
            one = drawn[number % DRAWN]
            with self.runtime.autocast():
                cut = shared.units.cut(seen, one.patch_size)
                places = shared.units.patch_ids(ids, one.patch_size)
                tokens = shared.encoder(one).forward_features(cut, places)
                loss = tokens.float().square().mean()
            loss.backward()

        def macs(number: int) -> int:
            return 3 * cost.encoder_macs(drawn[number % DRAWN], patches)

        return self._measured(step, macs, self.batches.encoder, left)

    def supernet(self, left: float) -> Finding:
        """P2: a step of the supernet's training, input and optimiser included."""
        return self._training("supernet", self.batches.supernet, left)

    def teacher(self, left: float) -> Finding:
        """P5: a step of the masked autoencoder's training, input and optimiser included."""
        return self._training("teacher", self.batches.teacher, left)

    def finetune(self, left: float) -> Finding:
        """P8: a step of fine-tuning, input and optimiser included."""
        return self._training("finetune", self.batches.classifier, left)

    def _training(self, stage: str, batch: int, left: float) -> Finding:
        task = task_on_noise(stage, self.settings, self.runtime, batch)
        return self._measured(lambda step: train_step(task, step, ALONE), task.macs, batch, left)

    def against_timm(self, *, compiled: bool) -> Callable[[float], Finding]:
        """P8: the networks of fine-tuning alone, ours and timm's of equal shape, in turns."""

        def compare(left: float) -> Finding:
            ours, its, far = self._pair()
            flops = 6.0 * cost.macs(ours.architecture) * self.batches.classifier
            steps = {}
            for name, network in (("ours", ours), ("timm", its)):
                called = torch.compile(network, dynamic=False) if compiled else network
                steps[name] = self._classifying(called, network)
            times = in_turns(steps, min(2 * self.seconds, left / 2), self.wait)
            return self._compared(times, flops, far)

        return compare

    def _pair(self) -> tuple[ViT, nn.Module, float]:
        """Return equal networks, ours and timm's, and how far their logits are apart in fp32."""
        shape = self.space.middle
        shape = shape.replace(num_classes=cost.counted_classes(shape))
        ours = ViT(shape)
        ours.init_weights(torch.Generator().manual_seed(0))
        assert ours.head is not None
        nn.init.normal_(ours.head.weight, std=0.02)  # 0 would hide a difference
        its = timm_network(shape)
        its.load_state_dict(to_timm(ours))
        ours.to(self.runtime.device)
        its.to(self.runtime.device)
        with torch.no_grad():
            few = self._images(shape, 2)
            far = (ours(few) - its(few)).abs().max().item()
        return ours, its, far

    def _classifying(self, called: Callable[[Tensor], Tensor], network: nn.Module) -> Any:
        shape, device = self.space.middle, self.runtime.device
        images = self._images(shape, self.batches.classifier)
        target = torch.zeros(len(images), dtype=torch.long, device=device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

        def step(_: int) -> None:
            with self.runtime.autocast():
                loss = F.cross_entropy(called(images).float(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    def _compared(self, times: Mapping[str, list[float]], flops: float, far: float) -> Finding:
        middle = {name: statistics.median(of) for name, of in times.items()}
        ratio = statistics.median(
            its / ours for ours, its in zip(times["ours"], times["timm"], strict=True)
        )
        batch, peak = self.batches.classifier, self.runtime.peak_flops()
        words = ", ".join(
            f"{name} {batch / one:,.0f} images/s ({flops / one / peak:.1%} of the peak)"
            for name, one in middle.items()
        )
        numbers = {
            "seconds": middle, "ratio": ratio, "logits_apart": far, "turns": len(times["ours"]),
        }  # fmt: skip
        result = f"{words}: {ratio:.2f} times timm's speed; logits apart by {far:.1g}"
        limit = f"logits {LOGIT_LIMIT}"
        return Finding(result, limit, far <= LOGIT_LIMIT, numbers)

    def _measured(
        self,
        step: Callable[[int], object],
        macs: Callable[[int], int],
        batch: int,
        left: float,
    ) -> Finding:
        """Measure a series of steps; `macs` are those of an image in a step, both passes."""
        if self.runtime.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.runtime.device)
        turns = in_turns({"": step}, min(self.seconds, left / 2), self.wait)[""]
        first = self.warm_up  # the steps that were not timed
        flops = [2.0 * batch * macs(first + number) for number in range(len(turns) * TURN)]
        mean, middle = sum(flops) / len(flops), statistics.median(turns)
        share = mean / statistics.mean(turns) / self.runtime.peak_flops()
        memory = self.runtime.memory()
        numbers = {
            "seconds": middle, "images_per_second": batch / middle, "share_of_peak": share,
            "memory_bytes": memory, "batch": batch, "turns": len(turns),
            "slowest": max(turns), "fastest": min(turns),
        }  # fmt: skip
        result = (
            f"{batch / middle:,.0f} images/s ({middle * 1e3:.1f} ms for {batch}), {share:.1%} of "
            f"the peak, {memory / 2**30:.1f} GiB"
        )
        return Finding(result, numbers=numbers)

    @property
    def warm_up(self) -> int:
        return TURN

    def wait(self) -> None:
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)

    def _images(self, shape: Architecture, count: int) -> Tensor:
        return self._noise(count, shape.in_channels, *shape.image_size)

    def _noise(self, *sizes: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(sizes, generator=generator).to(self.runtime.device)


def timm_network(shape: Architecture) -> nn.Module:
    """Build the network of an architecture as timm has it."""
    pool, fc_norm = masktas.timm.POOLING[shape.pool]
    network: nn.Module = create_model(
        masktas.timm.NAME, img_size=shape.image_size, patch_size=shape.patch_size,
        in_chans=shape.in_channels, num_classes=shape.num_classes, embed_dim=shape.embed_dim,
        block_heads=shape.num_heads, block_mlp_dims=shape.mlp_dim, head_dim=shape.head_dim,
        global_pool=pool, fc_norm=fc_norm,
    )  # fmt: skip
    return network


def in_turns(
    steps: Mapping[str, Callable[[int], object]],
    seconds: float,
    wait: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of a step in each turn, of all contenders; one turn of each warms up.

    A turn is `TURN` steps and a wait for the device. Contenders take turns in rotating order, at
    least two, until the time is up.
    """
    names, found = list(steps), {name: [] for name in steps}
    until, turn = clock() + seconds, 0
    while turn < 3 or clock() < until:
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            began = clock()
            for number in range(turn * TURN, (turn + 1) * TURN):
                steps[name](number)
            wait()
            if turn:  # the first one warms up
                found[name].append((clock() - began) / TURN)
        turn += 1
    return found
