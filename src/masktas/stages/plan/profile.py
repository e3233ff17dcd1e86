"""Where the time of a training step goes, by torch's profiler, on images of noise."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from masktas.config import AllSettings
from masktas.stages.plan.stage import task_on_noise
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.task import Task

STEPS, WARM_UP = 5, 2
INPUT, OPTIMISER, OTHER, OVERHEAD = "input", "optimiser", "other operations", "overhead"
PREFIX = "masktas: "  # of the ranges that are marked here
# The kind of an operation is the first whose words are in its name, or in that of a caller.
ATTENTION = {"attention": ("scaled_dot_product", "_attention")}
KINDS = {
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm", "linear", "matmul"),
    "norms": ("layer_norm", "group_norm", "batch_norm"),
    "activations": ("gelu", "relu", "softmax"),
    "copies": (
        "copy", "::cat", "::clone", "::contiguous", "gather", "scatter", "::index", "::zero",
        "slice_backward", "::select_backward", "::fill", "::empty", "::repeat", "::stack",
    ),
}  # fmt: skip
ROWS = (*KINDS, *ATTENTION, OPTIMISER, INPUT, OTHER, OVERHEAD)
COUNTED = ("matrix products", "attention")  # the kinds whose operations `flops` are


@dataclass(frozen=True, slots=True)
class StepProfile:
    """The time of a training step.

    Attributes:
        stage: its name.
        batch_size: images of the step.
        precision: of matrix products.
        seconds: of a step, without the profiler.
        profiled_seconds: with it, which slows down the host.
        kinds: seconds of a step with the profiler, by kind; `overhead` is what the operations (on
            CUDA, the kernels) leave: Python, launches, and waiting for the input.
        flops: of the matrix products of a step, attention included.
        peak_flops: a second, that a large matrix product reaches.
    """

    stage: str
    batch_size: int
    precision: str
    seconds: float
    profiled_seconds: float
    kinds: dict[str, float]
    flops: float
    peak_flops: float

    @property
    def share_of_peak(self) -> float:
        """Share of the peak that the whole step reaches."""
        return self.flops / self.seconds / self.peak_flops

    @property
    def products_share_of_peak(self) -> float:
        """Share of the peak that matrix products and attention reach while they run."""
        spent = sum(self.kinds[kind] for kind in COUNTED)
        return self.flops / spent / self.peak_flops if spent else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and both shares as JSON types."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {
            "share_of_peak": self.share_of_peak,
            "products_share_of_peak": self.products_share_of_peak,
        }


def profile_stage(
    stage: str, settings: AllSettings, runtime: Runtime, batch_size: int
) -> StepProfile:
    """Profile a few training steps of a stage.

    Args:
        stage: `teacher`, `supernet` or `finetune`.
        settings: of every stage, as for `run`.
        runtime: device and precision.
        batch_size: images of a step.

    Raises:
        ConfigError, BudgetError: if the settings do not go together.
    """
    task = task_on_noise(stage, settings, runtime, batch_size)
    _steps(task, runtime, 0, WARM_UP)
    seconds = _steps(task, runtime, WARM_UP, STEPS)
    activities = [ProfilerActivity.CPU]
    if runtime.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    # it prints its stages otherwise, and that there is no GPU as an error
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=activities) as profiler:
        # the same steps again: a supernet trains the same networks
        profiled = _steps(Marked(task), runtime, WARM_UP, STEPS)
    kinds = _by_kind(profiler.events() or [], on_device=runtime.device.type == "cuda")
    kinds = {name: spent / STEPS for name, spent in kinds.items() if name != OVERHEAD}
    kinds[OVERHEAD] = max(0.0, profiled - sum(kinds.values()))
    macs = [task.macs(step) for step in range(WARM_UP, WARM_UP + STEPS)]
    return StepProfile(
        stage,
        batch_size,
        runtime.precision,
        seconds,
        profiled,
        {name: kinds.get(name, 0.0) for name in ROWS},
        2.0 * batch_size * sum(macs) / STEPS,
        runtime.peak_flops(),
    )


class Marked:
    """A task whose input and update are marked for the profiler.

    Args:
        task: does the work.
    """

    def __init__(self, task: Task[Any]) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def inputs(self, step: int, rows: slice) -> Any:
        """Return the input of the task."""
        with record_function(PREFIX + INPUT):
            return self._task.inputs(step, rows)

    def update(self, network: nn.Module) -> None:
        """Apply the optimiser of the task."""
        with record_function(PREFIX + OPTIMISER):
            self._task.update(network)


def _steps(task: Any, runtime: Runtime, first: int, count: int) -> float:
    """Do some steps and return the seconds of one."""
    began = time.perf_counter()
    for step in range(first, first + count):
        train_step(task, step, ALONE)
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return (time.perf_counter() - began) / count


def _by_kind(events: list[FunctionEvent], *, on_device: bool) -> dict[str, float]:
    """Add up the seconds that operations themselves took, by kind."""
    found: dict[str, float] = {}
    for event in events:
        if event.device_type.name != "CPU":
            continue  # kernels, which their operations have counted
        spent = event.self_device_time_total if on_device else event.self_cpu_time_total
        kind = kind_of(event)
        found[kind] = found.get(kind, 0.0) + spent / 1e6
    return found


def kind_of(event: FunctionEvent) -> str:
    """Return the kind of an operation: its marked range, attention, else by its own name.

    Products and attention within the input are those of the teacher, whose work is counted, too.
    """
    names, marked = [], ""
    caller: FunctionEvent | None = event
    while caller is not None and not marked:
        if caller.name.startswith(PREFIX):
            marked = caller.name.removeprefix(PREFIX)
        else:
            names.append(caller.name)
            caller = caller.cpu_parent
    kind = _own_kind(names) if names else OVERHEAD
    return kind if not marked or (marked == INPUT and kind in COUNTED) else marked


def _own_kind(names: list[str]) -> str:
    """Return the kind of an operation by its name, the first one, and those of its callers."""
    for kinds in (ATTENTION, KINDS):
        for kind, words in kinds.items():
            looked_at = names if kinds is ATTENTION else names[:1]
            if any(word in name for name in looked_at for word in words):
                return kind
    return OTHER if names[0].startswith("aten::") else OVERHEAD
