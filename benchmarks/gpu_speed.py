"""The speeds of benchmarks/gpu.py: steps of encoder, supernet, masked autoencoder and classifier.

Flops are those of the matrix products, counted in closed form, so the share of the peak is that of
`Runtime.peak_flops`, a large matrix product measured in the same process.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from gpu_rows import Finding, NotRun
from peers.classifier import classifying, equal_pair, training_flops
from peers.turns import TURN, in_turns
from peers.turns import ratio as ratios
from torch import Tensor

from masktas.config import AllSettings
from masktas.nn.compiled import CompiledBlocks
from masktas.nn.supervised import SupervisedSupernet
from masktas.space import Architecture, SearchSpace, cost
from masktas.stages.plan.stage import task_on_noise
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

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

    def compiled(self, stage: str, backend: str) -> Callable[[float], Finding]:
        """P2, P5 or P8 with compiled blocks, as `--compile on` trains."""
        batch = {
            "supernet": self.batches.supernet,
            "teacher": self.batches.teacher,
            "finetune": self.batches.classifier,
        }[stage]

        def measure(left: float) -> Finding:
            blocks = CompiledBlocks(backend)
            found = self._training(stage, batch, left, blocks)
            numbers = {"graphs": blocks.num_graphs, "compile_seconds": blocks.seconds}
            words = f"; graphs: {blocks.num_graphs}, compiled in {blocks.seconds:.0f} s"
            return replace(found, result=found.result + words, numbers=found.numbers | numbers)

        return measure

    def _training(
        self, stage: str, batch: int, left: float, blocks: CompiledBlocks | None = None
    ) -> Finding:
        runtime = replace(self.runtime, blocks=blocks)
        task = task_on_noise(stage, self.settings, runtime, batch)

        def step(number: int) -> None:
            with runtime.compiled():
                train_step(task, number, ALONE)

        if blocks is not None and stage == "supernet":
            until, number = time.monotonic() + left / 2, 0
            while blocks.num_graphs < self.space.num_block_shapes:
                if time.monotonic() > until:
                    raise NotRun("compiling all shapes of blocks takes longer than the time left")
                step(number := number + 1)
        return self._measured(step, task.macs, batch, left)

    def against_timm(self, *, compiled: bool) -> Callable[[float], Finding]:
        """P8: the networks of fine-tuning alone, ours and timm's of equal shape, in turns."""

        def compare(left: float) -> Finding:
            ours, its = equal_pair(self.space, self.runtime.device)
            shape = ours.architecture
            images = self._images(shape, self.batches.classifier)
            with torch.no_grad():
                far = (ours(images[:2]) - its(images[:2])).abs().max().item()
            steps = {}
            for name, network in (("ours", ours), ("timm", its)):
                called = torch.compile(network, dynamic=False) if compiled else network
                steps[name] = classifying(called, network, images, self.runtime)
            times = in_turns(steps, min(2 * self.seconds, left / 2), self.wait)
            return self._compared(times, training_flops(shape, len(images)), far)

        return compare

    def _compared(self, times: Mapping[str, list[float]], flops: float, far: float) -> Finding:
        middle = {name: statistics.median(of) for name, of in times.items()}
        _, ratio, _ = ratios(times["timm"], times["ours"])
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
