"""What `--compile auto` means on CUDA: blocks are compiled where that is measured to be faster.

A block is trained for a few steps, compiled and as it is, in turns. The result is kept in the
user's cache folder, for each device, torch version and precision. On a CPU nothing is measured:
compiled blocks of static sizes took 0.98 to 1.05 times as long there (docs/results/speed.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from masktas.errors import MasktasError
from masktas.nn.compiled import Apply, CompiledBlocks, plainly
from masktas.nn.vit import Block
from masktas.train.measured import FASTER, Clock, best_seconds, kept_seconds

SECONDS = 0.5  # for the timed steps of both together
WIDTH, HEADS, HEAD_DIM, MLP = 384, 6, 64, 1536  # a block of a ViT-S
TOKENS = (64, 50, WIDTH)  # B, T, D: a quarter of 196 patches, and the class token


@dataclass(frozen=True, slots=True)
class CompiledTimes:
    """Seconds of a training step of a block, plain and compiled; infinite if it cannot be."""

    plain: float
    compiled: float

    @property
    def faster(self) -> bool:
        """Whether to compile."""
        return self.plain >= FASTER * self.compiled < math.inf

    def __str__(self) -> str:
        if math.isinf(self.compiled):
            return "Compile off: torch.compile does not work here (--compile on says why)."
        return (
            f"Compile {'on' if self.faster else 'off'}: a training step of a block takes "
            f"{self.compiled * 1e3:.3g} ms compiled and {self.plain * 1e3:.3g} ms otherwise, and "
            f"blocks are compiled if that is at least {FASTER} times as fast."
        )


def compiled_times(device: torch.device, *, bf16: bool) -> CompiledTimes:
    """Return the times kept for a CUDA device, or measure and keep them."""
    about = [torch.cuda.get_device_name(device), str(bf16), str((*TOKENS, HEADS, MLP))]

    def measured() -> tuple[float, float]:
        found = measure(device, bf16=bf16)
        return found.plain, found.compiled

    return CompiledTimes(*kept_seconds("compiled", about, ("plain", "compiled"), measured))


def measure(
    device: torch.device,
    *,
    bf16: bool,
    blocks: Apply | None = None,
    clock: Clock = time.perf_counter,
) -> CompiledTimes:
    """Time a training step of a block, plain and compiled, in turns; the best of each counts."""
    step = _step(device, bf16=bf16)
    ways = {"plain": partial(step, plainly), "compiled": partial(step, blocks or CompiledBlocks())}
    try:
        return CompiledTimes(**best_seconds(ways, SECONDS, clock))
    except torch.OutOfMemoryError:
        raise
    except (MasktasError, RuntimeError):  # there is no compiler, or the backward pass has no graph
        return CompiledTimes(plain=math.inf, compiled=math.inf)


def _step(device: torch.device, *, bf16: bool) -> Callable[[Apply], None]:
    """Return a function that trains a block, applied in some way, and draws nothing."""
    with torch.random.fork_rng(devices=[]):
        block = Block(WIDTH, HEADS, HEAD_DIM, MLP).to(device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, generator=generator).to(device).requires_grad_()

    def step(apply: Apply) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = apply(block, x, None).float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step
