"""Device, precision and compilation of a stage."""

from __future__ import annotations

import functools
import platform
import resource
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from masktas import launch
from masktas.errors import ConfigError
from masktas.nn.compiled import CompiledBlocks
from masktas.train.allocator import keep_freed_memory
from masktas.train.compiling import compiled_times
from masktas.train.precision import Precision, has_bf16_products, step_times
from masktas.train.ranks import ALONE, Ranks

SLOW = 0.5  # bf16 at less than this share of fp32's speed is worth a warning


@dataclass(frozen=True, slots=True)
class Runtime:
    """Device, precision, recomputation and compilation.

    Attributes:
        device: of networks and batches.
        bf16: whether matrix products are done in bfloat16; losses, the statistics of norms and
            softmax are in float32 either way.
        recompute: whether activations are computed again in the backward pass.
        blocks: the compiled blocks that training steps use, None if they are not compiled.
        why: a sentence about the precision, if it was chosen by measurement.
    """

    device: torch.device
    bf16: bool
    recompute: bool = False
    blocks: CompiledBlocks | None = field(default=None, compare=False)
    why: str = field(default="", compare=False)

    @classmethod
    def choose(
        cls, device: str, precision: str, *, recompute: bool = False, ranks: Ranks = ALONE
    ) -> Runtime:
        """Resolve `auto`: CUDA where there is one, and the faster precision.

        That is bf16 on CUDA, and on a CPU what a training step is measured to be faster in, see
        `train.precision`. Each of several processes on one machine uses the GPU of its local rank.

        Args:
            device: auto, cpu, cuda or cuda:N.
            precision: auto, fp32 or bf16.
            recompute: as the attribute.
            ranks: the processes that share the work: the first one chooses the precision of all.

        Raises:
            ConfigError: if the device is not there.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and launch.world_size() > 1:
            device = f"cuda:{launch.local_rank()}"
        try:
            chosen = torch.device(device)
        except RuntimeError:
            raise ConfigError(f"--device {device}: choose auto, cpu, cuda or cuda:N.") from None
        if chosen.type not in ("cpu", "cuda"):
            raise ConfigError(f"--device {device}: choose auto, cpu, cuda or cuda:N.")
        if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"--device {device}: torch can use {torch.cuda.device_count()} CUDA devices here "
                "(`masktas doctor` shows what there is). --device cpu works everywhere."
            )
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        why = ""
        if precision == "auto":
            precision, why = ranks.first(lambda: _faster(chosen))
        return cls(chosen, precision == "bf16", recompute, why=why)

    @property
    def precision(self) -> Precision:
        """The name of the precision, as settings and files have it."""
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which matrix products have the chosen precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def compiled_is_faster(self) -> tuple[bool, str]:
        """Return what `--compile auto` means here, and why, if it was measured."""
        if self.device.type != "cuda":
            return False, ""
        times = compiled_times(self.device, bf16=self.bf16)
        return times.faster, str(times)

    def compiled(self) -> AbstractContextManager[object]:
        """Return the context of a training step, in which blocks are compiled, if they are."""
        return self.blocks.used() if self.blocks is not None else nullcontext()

    def keep_memory(self) -> None:
        """On a CPU, have this process keep the memory that it frees, see `train.allocator`."""
        if self.device.type == "cpu":
            keep_freed_memory()

    def forget_memory(self) -> None:
        """Begin to measure the peak memory of a GPU anew; that of a process has no beginning."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def memory(self) -> int:
        """Return the peak memory in bytes so far: of the GPU, or of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def slow_bf16(self) -> str:
        """Return a warning if bfloat16 is much slower than float32 here, otherwise "".

        Processors without matrix products in bfloat16 emulate them. That is measured: torch has no
        public function that says so on every processor.
        """
        if not self.bf16 or self.device.type != "cpu":
            return ""
        half, single = (
            matmul_flops(self.device, dtype, seconds=0.05, side=256) / 1e9
            for dtype in (torch.bfloat16, torch.float32)
        )
        if half > SLOW * single:
            return ""
        return (
            f"{processor_name()} multiplies matrices at {half:.3g} GFLOP/s in bf16 and at "
            f"{single:.3g} in fp32: --precision fp32 is faster here."
        )

    def peak_flops(self) -> float:
        """Measure the peak of matrix products in FLOP/s, in the chosen precision."""
        return matmul_flops(self.device, torch.bfloat16 if self.bf16 else torch.float32)

    def describe(self) -> dict[str, object]:
        """Return device, precision and threads for manifests."""
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if cuda else processor_name()
        return {
            "device": str(self.device),
            "name": name,
            "precision": self.precision,
            "threads": torch.get_num_threads(),
        }


def _faster(device: torch.device) -> tuple[str, str]:
    """Return the precision that `auto` means on a device, and why, if it was measured."""
    if device.type == "cuda":
        return "bf16", ""
    if not has_bf16_products():
        return "fp32", ""
    times = step_times()
    return times.faster, str(times)


@functools.cache
def matmul_flops(
    device: torch.device, dtype: torch.dtype, seconds: float = 0.25, side: int | None = None
) -> float:
    """Measure FLOP/s of a square matrix product, by default a large one: the best of several."""
    side = side or (8192 if device.type == "cuda" else 1024)
    a = torch.randn(side, side, device=device).to(dtype)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        began = time.perf_counter()
        _ = a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return float(2 * side**3 / best)


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
