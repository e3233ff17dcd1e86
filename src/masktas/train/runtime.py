"""Where a stage computes and in which precision."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from masktas.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device, and whether matrix products are done in bfloat16 there."""

    device: torch.device
    bf16: bool

    @classmethod
    def choose(cls, device: str, precision: str) -> Runtime:
        """Resolve `auto`: CUDA where there is one, bf16 on CUDA and fp32 on CPU.

        Raises:
            ConfigError: if the device is not there.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
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
        return cls(chosen, precision == "bf16" or (precision == "auto" and chosen.type == "cuda"))

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which matrix products have the chosen precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def describe(self) -> dict[str, object]:
        """Return device, precision and threads for manifests."""
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if cuda else processor_name()
        return {
            "device": str(self.device),
            "name": name,
            "precision": "bf16" if self.bf16 else "fp32",
            "threads": torch.get_num_threads(),
        }


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
