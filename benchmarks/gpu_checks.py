"""The checks of benchmarks/gpu.py: that a device computes what the CPU in float32 does.

All but the GPU's own tests run on any device, small or large.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_rows import Finding, NotRun
from optimizer import measure
from torch import Tensor
from torch.utils import _pytree as pytree

from masktas.config import AllSettings
from masktas.console import Console
from masktas.stages.plan.stage import task_on_noise
from masktas.stopping import Stopping
from masktas.train.checkpoint import TrainingState
from masktas.train.log import Ledger
from masktas.train.loop import Environment, LoopConfig, Training
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

ROOT = Path(__file__).parents[1]
STAGES = ("teacher", "supernet", "finetune")
LOSS_LIMIT = 0.03  # of bf16 losses from those in fp32, relative
PIXEL_LIMIT = 0.02  # mean distance of a normalised pixel from the CPU's; a grey level is 0.016
BATCH, STEPS = 8, 6
TEST_SECONDS = 150.0


@dataclass(frozen=True)
class Checks:
    """The checks, each a method that returns a `Finding`.

    Attributes:
        device: `cpu` or `cuda`.
        settings: of small networks: the checks compare bits and losses, not times.
    """

    device: str
    settings: AllSettings

    def optimizer(self, _: float) -> Finding:
        """Update random subnets; every entry outside a slice must keep its bits."""
        name = self.settings.supernet.space
        found = measure(name, steps=STEPS, device=torch.device(self.device), count=0)
        ours, fused = (min(found[key]) for key in ("ours", "fused"))
        result = f"no entry outside {STEPS} slices has changed; {ours:.2f} ms, fused {fused:.2f} ms"
        return Finding(result, "all bits", numbers={"ours_ms": ours, "fused_ms": fused})

    def losses(self, _: float) -> Finding:
        """Train a few steps of every stage in both precisions and compare the losses."""
        numbers = {}
        for stage in STAGES:
            of = {one: self._first_losses(stage, one) for one in ("fp32", "bf16")}
            pairs = zip(of["fp32"], of["bf16"], strict=True)
            numbers[stage] = max(abs(half - full) / abs(full) for full, half in pairs)
        result = ", ".join(f"{stage} {one:.2%}" for stage, one in numbers.items())
        return Finding(
            f"largest of {STEPS} steps: {result}",
            f"{LOSS_LIMIT:.0%}",
            all(one <= LOSS_LIMIT for one in numbers.values()),
            numbers,
        )

    def _first_losses(self, stage: str, precision: str) -> list[float]:
        task = task_on_noise(stage, self.settings, Runtime.choose(self.device, precision), BATCH)
        steps = (train_step(task, step, ALONE) for step in range(STEPS))
        return [next(iter(losses.values())).item() for losses in steps]

    def input(self, _: float) -> Finding:
        """Compare the masked patches of a batch with those that the CPU makes."""
        made = []
        for device in ("cpu", self.device):
            runtime = Runtime.choose(device, "fp32")
            task = task_on_noise("teacher", self.settings, runtime, BATCH)
            leaves = pytree.tree_leaves(task.inputs(3, slice(0, BATCH)))
            made.append([one.cpu() for one in leaves if isinstance(one, Tensor)])
        pairs = list(zip(*made, strict=True))
        same = all(torch.equal(a, b) for a, b in pairs if not a.is_floating_point())
        far = max((a - b).abs().mean().item() for a, b in pairs if a.is_floating_point())
        result = f"masks {'equal' if same else 'differ'}; pixels differ by {far:.2g} in the mean"
        return Finding(
            result, f"equal; {PIXEL_LIMIT}", same and far <= PIXEL_LIMIT, {"mean_distance": far}
        )

    def resume(self, _: float) -> Finding:
        """Train with and without a kill; the resumed training must end like the other.

        Where two equal trainings differ on this device already, by as much as they do.
        """
        results = {}
        for stage in STAGES:
            whole, again = (self._trained(stage, killed=False) for _ in range(2))
            resumed = self._trained(stage, killed=True)
            results[stage] = {"repeated": whole.distance(again), "resumed": whole.distance(resumed)}
        kept = all(one["resumed"] <= 4 * one["repeated"] for one in results.values())
        words = (
            f"{stage} {'equal bits' if one['resumed'] == 0 else format(one['resumed'], '.2g')}"
            + ("" if one["repeated"] == 0 else f" (repeated: {one['repeated']:.2g})")
            for stage, one in results.items()
        )
        return Finding(", ".join(words), "as repeated", kept, results)

    def _trained(self, stage: str, *, killed: bool) -> Trained:
        """Train 3 epochs of 2 steps; `killed` between the epochs 2 and 3, and resumed."""
        config = LoopConfig(stage, 3, 2, BATCH, checkpoint_seconds=0)

        def die(epoch: int) -> dict[str, float]:
            if epoch == 2:
                raise Killed
            return {}

        with tempfile.TemporaryDirectory() as name:
            for after_epoch in ([die] if killed else []) + [lambda epoch: {}]:
                runtime = Runtime.choose(self.device, "auto")
                task = task_on_noise(stage, self.settings, runtime, BATCH)
                folder, quiet = Path(name), Console(quiet=True)
                environment = Environment(runtime, ALONE, Stopping(), quiet, Ledger(folder))
                training = Training(task, config, folder, environment, after_epoch=after_epoch)
                try:
                    training.run()
                except Killed:
                    continue
            log = Path(name, "metrics.jsonl").read_text().splitlines()
            tensors = TrainingState(task.module, task.optimizer).tensors()
            return Trained({key: one.cpu().clone() for key, one in tensors.items()}, log)

    def tests(self, left: float) -> Finding:
        """Run the tests that need a GPU, in a process of their own."""
        if not torch.cuda.is_available():
            raise NotRun("there is no GPU")
        missing = [name for name in ("pytest", "hypothesis") if not importlib.util.find_spec(name)]
        if missing:
            raise NotRun(f"{' and '.join(missing)} must be installed")
        files = sorted(
            str(path)
            for path in (ROOT / "tests").rglob("test_*.py")
            if "mark.gpu" in path.read_text(encoding="utf-8")
        )
        if not files:
            raise NotRun("there are no tests beside the benchmarks")
        done = run_tests(files, min(TEST_SECONDS, left - 5))
        last = (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")
        return Finding(last, "all pass", done.returncode == 0, {"output": done.stdout[-4000:]})


def run_tests(files: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run the tests marked `gpu` in some files, whether or not pytest's plugins are installed."""
    options = ("addopts=--import-mode=importlib", "filterwarnings=default")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
         *(word for option in options for word in ("-o", option)), *files],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])},
    )  # fmt: skip


class Killed(Exception):
    """The end of a training that is to be resumed."""


@dataclass(frozen=True)
class Trained:
    """The state of a finished training, and its log."""

    tensors: dict[str, Tensor]
    log: list[str]

    def distance(self, other: Trained) -> float:
        """Return the largest difference of an entry; 0 for equal bits, infinite for other logs."""
        if set(self.tensors) != set(other.tensors) or len(self.log) != len(other.log):
            return float("inf")
        far = 0.0
        for name, one in self.tensors.items():
            if not torch.equal(one, other.tensors[name]):
                far = max(far, (one.double() - other.tensors[name].double()).abs().max().item())
        return far if far or self.log == other.log else float("inf")


def describe(checks: Checks) -> dict[str, Any]:
    """Return what the checks train, for the JSON."""
    return {"space": checks.settings.supernet.space, "batch": BATCH, "steps": STEPS}
