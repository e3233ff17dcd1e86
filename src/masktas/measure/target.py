"""Target of a latency measurement: engine, device and how they are used."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from masktas.errors import ConfigError
from masktas.formats import format_target
from masktas.nn.vit import ViT
from masktas.train.runtime import Runtime, processor_name

ENGINES = ("eager", "compiled", "onnxruntime", "command", "function")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
EXPORTERS = ("onnx", "onnxscript")
TIMEOUT = 600.0

Measure = Callable[[ViT], float]  # a user's function, milliseconds of one inference


@dataclass(frozen=True, slots=True)
class Target:
    """Engine and device of a latency measurement, and how they are used.

    Attributes:
        engine: `eager` or `compiled` (torch), `onnxruntime`, `command` (a user's program, for a
            phone or a board) or `function` (a user's Python function).
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA if available.
        threads: of the CPU; None for torch's default.
        batch: number of images in one inference.
        precision: of weights and activations: `fp32`, `bf16`, `fp16`, or `int8`: the file that
            `masktas export --to onnx-int8` writes, in onnxruntime on the CPU.
        command: for the engine `command`; see `measure.command`.
        function: for the engine `function`: `measure(network) -> ms`.
        timeout: maximum seconds of a command for one network.

    Raises:
        ConfigError: if these cannot be combined.
    """

    engine: str = "eager"
    device: str = "cpu"
    threads: int | None = None
    batch: int = 1
    precision: str = "fp32"
    command: str | None = None
    function: Measure | None = None
    timeout: float = field(default=TIMEOUT, compare=False)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(f"engine {self.engine!r}: choose one of {', '.join(ENGINES)}.")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}."
            )
        for name, number in (("threads", self.threads), ("batch", self.batch)):
            if (number is None and name == "batch") or (
                number is not None and (type(number) is not int or number < 1)
            ):
                raise ConfigError(f"{name} is {number!r}: give a whole number above 0.")
        if not self.timeout > 0:
            raise ConfigError(f"timeout is {self.timeout!r}: give seconds above 0.")
        if self.engine == "onnxruntime" and self.precision == "bf16":
            raise ConfigError(
                "onnxruntime does not run these networks in bf16: choose fp32, fp16 or int8."
            )
        if self.precision == "int8" and self.engine != "onnxruntime" and not self.is_own:
            raise ConfigError(
                f"engine {self.engine} has no int8: choose the engine onnxruntime, which runs the "
                "file of `masktas export --to onnx-int8`, or another precision."
            )
        if self.precision == "int8" and self.device != "cpu":
            raise ConfigError(
                f"int8 is measured on the CPU only, and device is {self.device}: choose cpu."
            )
        self._require_own()

    def _require_own(self) -> None:
        """Raise ConfigError unless a command or function is given exactly if it is used."""
        for name, given in (("command", self.command), ("function", self.function)):
            if (self.engine == name) != (given is not None) or given == "":
                raise ConfigError(
                    f"engine {self.engine} and {name} {given!r} do not go together: a {name} is "
                    f"given with the engine {name}, and only with it."
                )
        usual = (self.device in ("cpu", "auto"), self.threads is None, self.precision == "fp32")
        if self.is_own and not all(usual):
            raise ConfigError(
                f"device, threads and precision are up to your {self.engine}: do not set them."
            )
        if self.function is not None and self.batch != 1:
            raise ConfigError("batch is up to your function: do not set it.")

    @property
    def is_own(self) -> bool:
        """Whether a user's own program or function measures."""
        return self.engine in ("command", "function")

    @property
    def runtime(self) -> Runtime:
        """The device; ConfigError if it is not available."""
        return Runtime.choose(self.device, "fp32")

    def require(self) -> None:
        """Raise ConfigError unless this machine can measure on it."""
        needed: tuple[str, ...] = ()
        if self.engine == "onnxruntime":
            needed = (*EXPORTERS, "onnxruntime")
        elif self.command is not None and "{onnx}" in self.command:
            needed = EXPORTERS
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"{', '.join(missing)} is not installed, but ONNX export or onnxruntime needs it: "
                "`pip install 'masktas[onnx]'`."
            )
        if self.is_own:
            return
        cuda = self.runtime.device.type == "cuda"
        if self.engine == "compiled":
            _require_compiler(cuda=cuda)
        if self.engine == "onnxruntime" and cuda:
            _require_cuda_provider()

    def describe(self) -> dict[str, Any]:
        """Return what identifies the target, as JSON types; equal for equal targets."""
        if self.command is not None:
            return {"engine": self.engine, "command": self.command, "batch": self.batch}
        if self.function is not None:
            return {"engine": self.engine, "function": _name(self.function)}
        import torch

        device = self.runtime.device
        cuda = device.type == "cuda"
        packages = ("torch", "onnxruntime") if self.engine == "onnxruntime" else ("torch",)
        return {
            "engine": self.engine,
            "device": device.type,
            "name": torch.cuda.get_device_name(device) if cuda else processor_name(),
            "threads": None if cuda else self.threads or torch.get_num_threads(),
            "batch": self.batch,
            "precision": self.precision,
            "versions": {name: _version(name) for name in packages},
        }

    def __str__(self) -> str:
        return format_target(self.describe())


def _require_compiler(*, cuda: bool) -> None:
    """Raise ConfigError unless torch.compile finds its compiler."""
    if cuda:
        if importlib.util.find_spec("triton") is None:
            raise ConfigError("engine compiled needs Triton on CUDA: install it, or choose eager.")
        return
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"engine compiled needs a C++ compiler, and {compiler} is not installed: install g++, "
            "name another one in the environment variable CXX, or choose eager."
        )


def _require_cuda_provider() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ConfigError(
            "This onnxruntime is built without CUDA: install onnxruntime-gpu, or choose the device "
            "cpu."
        )


def _name(function: Measure) -> str:
    """Return the qualified name of a function or other callable."""
    kind = type(function)
    module = getattr(function, "__module__", None) or kind.__module__
    return f"{module}.{getattr(function, '__qualname__', kind.__qualname__)}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"  # onnxruntime-gpu and others have another name
