"""What `--precision auto` means on a CPU: bfloat16 where it is measured to be faster.

Only processors with matrix products in bfloat16 are measured; the others emulate them. Products
alone say too little (they gain a factor of 4 where a step gains 1.5), so a small training step is
timed in both precisions, in turns. The result is kept in the user's cache folder, for each
processor, torch version and number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from masktas.native import processor
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.measured import FASTER, Clock, best_seconds, kept_seconds

Precision = Literal["fp32", "bf16"]
SECONDS = 0.3  # for the timed steps of both precisions together
PRODUCTS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86, x86, ARM, ARM
SHAPE = Architecture(
    embed_dim=192, num_heads=(3, 3), mlp_ratio=(4, 4), image_size=(56, 56), patch_size=8,
    num_classes=10,
)  # fmt: skip
BATCH = 12


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of one training step of `SHAPE` on this machine, in each precision."""

    fp32: float
    bf16: float

    @property
    def faster(self) -> Precision:
        """The precision to choose."""
        return "bf16" if self.fp32 >= FASTER * self.bf16 else "fp32"

    def __str__(self) -> str:
        return (
            f"Precision {self.faster}: a small training step takes {self.bf16 * 1e3:.3g} ms in "
            f"bf16 and {self.fp32 * 1e3:.3g} ms in fp32 on this processor, and bf16 is chosen if "
            f"it is at least {FASTER} times as fast."
        )


def has_bf16_products() -> bool:
    """Return whether this processor multiplies matrices in bfloat16, as far as torch can tell.

    On x86, torch must also be using the AVX-512 kernels: it does not if the environment variable
    ATEN_CPU_CAPABILITY says so.
    """
    x86 = torch.backends.cpu.get_cpu_capability()
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        if not any(known.get(name, False) for name in PRODUCTS):
            return False
        return known.get("architecture") != "x86_64" or x86 == "AVX512"
    # earlier versions of torch tell of x86 only
    return x86 == "AVX512" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def step_times() -> StepTimes:
    """Return the times kept for this machine, or measure and keep them."""
    about = [processor(), str(torch.get_num_threads()), repr(SHAPE)]

    def measured() -> tuple[float, float]:
        found = measure()
        return found.fp32, found.bf16

    return StepTimes(*kept_seconds("step", about, ("fp32", "bf16"), measured))


def measure(clock: Clock = time.perf_counter) -> StepTimes:
    """Time a training step in both precisions, in turns; the best of each counts."""
    step = _step()
    ways = {
        "fp32": partial(step, torch.float32),
        "bf16": partial(step, torch.bfloat16),
    }
    return StepTimes(**best_seconds(ways, SECONDS, clock))


def _step() -> Callable[[torch.dtype], None]:
    """Return a function that trains one step in a precision; global generators are untouched."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        network = ViT(SHAPE)
    network.init_weights(generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    images = torch.randn(BATCH, SHAPE.in_channels, *SHAPE.image_size, generator=generator)

    def step(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = network(images).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
