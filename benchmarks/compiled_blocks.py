"""Training steps with compiled blocks beside the same steps without: is `--compile on` worth it?

Command   python benchmarks/compiled_blocks.py [--stages teacher finetune] [--space micro]
              [--batch 64] [--device cpu] [--precision fp32] [--threads 2] [--seconds 20]
Does      trains a stage on images of noise, plain and compiled, in turns in one process.
Shows     milliseconds of a step (quartiles), the ratio of plain to compiled turn by turn (above 1:
          compiled is faster), the share of the peak of matrix products, and what compiling took.
Limits    a supernet compiles every shape of its blocks: `micro` has 36, of 20 s each on a CPU.
          On an otherwise idle machine only.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from peers.turns import in_turns, quartiles, ratio

from masktas.config import AllSettings, SupernetSettings
from masktas.nn.compiled import CompiledBlocks
from masktas.stages.plan.stage import task_on_noise
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

COLUMNS = "stage", "plain, ms", "compiled, ms", "plain / compiled", "share of the peak", "compiling"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = ("teacher", "supernet", "finetune")
    parser.add_argument("--stages", nargs="+", choices=stages, default=["teacher", "finetune"])
    parser.add_argument("--space", default="micro")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stage")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    runtime = Runtime.choose(given.device, given.precision)
    settings = AllSettings(supernet=SupernetSettings(space=given.space))
    about = runtime.describe()
    print(f"{about['name']}, {about['precision']}, {given.threads} threads, torch", end=" ")
    print(f"{torch.__version__}; batches of {given.batch}, space {given.space}")
    print("| " + " | ".join(COLUMNS) + " |")
    print("| " + " | ".join("---" for _ in COLUMNS) + " |")
    for stage in given.stages:
        cells = row(stage, settings, runtime, given.batch, given.seconds, given.backend)
        print("| " + " | ".join([stage, *cells]) + " |", flush=True)
    return 0


def row(
    stage: str, settings: AllSettings, plain: Runtime, batch: int, seconds: float, backend: str
) -> list[str]:
    """Time the steps of a stage and return the cells of its row."""
    blocks = CompiledBlocks(backend)
    runtimes = {"plain": plain, "compiled": replace(plain, blocks=blocks)}
    steps: dict[str, Callable[[int], object]] = {}
    for name, runtime in runtimes.items():
        task = task_on_noise(stage, settings, runtime, batch)

        def step(number: int, task: object = task, runtime: Runtime = runtime) -> None:
            with runtime.compiled():
                train_step(task, number, ALONE)  # type: ignore[arg-type]

        steps[name] = step

    def wait() -> None:
        if plain.device.type == "cuda":
            torch.cuda.synchronize(plain.device)

    times = in_turns(steps, seconds, wait, turn_steps=2, untimed=1)
    flops = [2.0 * batch * task.macs(number) for number in range(2 * len(times["plain"]))]
    mean, peak = statistics.mean(flops), plain.peak_flops()
    shares = [mean / statistics.median(times[name]) / peak for name in steps]
    low, middle, high = ratio(times["plain"], times["compiled"])
    return [
        *(_milliseconds(times[name]) for name in steps),
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        " and ".join(f"{one:.0%}" for one in shares),
        f"{blocks.num_graphs} in {blocks.seconds:.0f} s",
    ]


def _milliseconds(times: Sequence[float]) -> str:
    low, middle, high = (1e3 * one for one in quartiles(times))
    return f"{middle:,.3g} ({low:,.3g} to {high:,.3g})"


if __name__ == "__main__":
    raise SystemExit(main())
