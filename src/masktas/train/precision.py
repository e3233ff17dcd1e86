"""What `--precision auto` means on a CPU: bfloat16 where it is measured to be faster.

Only processors with matrix products in bfloat16 are measured; the others emulate them. Products
alone say too little (they gain a factor of 4 where a step gains 1.5), so a small training step is
timed in both precisions, in turns. The result is kept in the user's cache folder, for each
processor, torch version and number of threads.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from masktas.errors import MasktasError
from masktas.files import read_json, write_json
from masktas.native import cache_folder, processor
from masktas.nn.vit import ViT
from masktas.space import Architecture

Precision = Literal["fp32", "bf16"]
FASTER = 1.15  # bf16 is chosen if fp32 takes this many times as long
SECONDS = 0.3  # for the timed steps of both precisions together
LEAST_TURNS = 3
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
    path = _kept()
    if path is not None:
        with suppress(MasktasError, AttributeError, KeyError, TypeError, ValueError):
            content = read_json(path)
            kept = StepTimes(float(content["fp32_seconds"]), float(content["bf16_seconds"]))
            if all(0 < one < math.inf for one in (kept.fp32, kept.bf16)):
                return kept
    found = measure()
    if path is not None:
        with suppress(MasktasError):  # without disk space it is measured again
            write_json(path, {"fp32_seconds": found.fp32, "bf16_seconds": found.bf16})
    return found


def _kept() -> Path | None:
    """Return the path of the times in the cache; None if the cache cannot be used."""
    made_of = "\n".join([processor(), torch.__version__, str(torch.get_num_threads()), repr(SHAPE)])
    try:
        return cache_folder() / f"step-{hashlib.sha256(made_of.encode()).hexdigest()[:24]}.json"
    except (OSError, RuntimeError):  # the home folder may be unknown
        return None


def measure(clock: Callable[[], float] = time.perf_counter) -> StepTimes:
    """Time a training step in both precisions, in turns; the best of each counts.

    The best, since whatever else runs on the machine can only make a step slower.
    """
    step = _step()
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for dtype in best:
        step(dtype)  # torch sets itself up
    until, turns = clock() + SECONDS, 0
    while turns < LEAST_TURNS or clock() < until:
        for dtype in best:
            began = clock()
            step(dtype)
            best[dtype] = min(best[dtype], clock() - began)
        turns += 1
    return StepTimes(best[torch.float32], best[torch.bfloat16])


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
