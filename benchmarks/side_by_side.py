"""Fine-tunings side by side, one thread each, against one after the other on all threads.

Command   python benchmarks/side_by_side.py [--cases demo:4 demo:32 digits:32 micro:64]
              [--seconds 5] [--turns 3]
Does      trains the largest network of a space on batches of noise, as `masktas finetune` would:
          one process with all threads of this machine, and as many processes as threads with one
          each, at the same time; in turns.
Shows     milliseconds of a step in both ways, and how many times as many steps a second all
          processes make together, with the quartiles of the turns; multiply-accumulates of the
          forward pass, by which `run` decides (`SMALL_STEP`); peak memory of one process.
Limit     the ratio is at most the number of threads over what they gain in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch

from masktas.config import AllSettings, FinetuneSettings, SupernetSettings
from masktas.space import SearchSpace, macs
from masktas.stages.plan.stage import task_on_noise
from masktas.stages.side_by_side.pool import SMALL_STEP
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

WARM_UP = 3


def train(name: str, batch: int, seconds: float) -> None:
    """Train when a line comes in; print milliseconds of a step and peak memory."""
    settings = AllSettings(
        supernet=SupernetSettings(space=name), finetune=FinetuneSettings(recipe="plain")
    )
    runtime = Runtime.choose("cpu", "fp32")
    runtime.keep_memory()
    task = task_on_noise("finetune", settings, runtime, batch)
    for step in range(WARM_UP):
        train_step(task, step, ALONE)
    print("ready", flush=True)
    sys.stdin.readline()
    began, step = time.perf_counter(), WARM_UP
    while time.perf_counter() - began < seconds:
        train_step(task, step, ALONE)
        step += 1
    spent = (time.perf_counter() - began) / (step - WARM_UP)
    print(json.dumps([1e3 * spent, runtime.memory()]), flush=True)


def measured(case: str, processes: int, threads: int, seconds: float) -> list[tuple[float, int]]:
    """Return milliseconds of a step and memory of each of some processes."""
    count = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    words = [sys.executable, __file__, "--train", case, "--seconds", str(seconds)]
    children = [
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | count, text=True
        )
        for _ in range(processes)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return [tuple(json.loads(child.communicate()[0])) for child in children]


def compare(case: str, threads: int, seconds: float, turns: int) -> str:
    """Return a row of the table."""
    name, _, batch = case.partition(":")
    together, beside, ratios, memory = [], [], [], 0
    for _ in range(turns):
        (one, _), *_ = measured(case, 1, threads, seconds)
        several = measured(case, threads, 1, seconds)
        together.append(one)
        beside.append(statistics.fmean(spent for spent, _ in several))
        ratios.append(sum(one / spent for spent, _ in several))
        memory = max(memory, *(used for _, used in several))
    size = int(batch) * macs(SearchSpace.load(name).largest)
    small = "yes" if size <= SMALL_STEP else "no"
    low, middle, high = statistics.quantiles(ratios, n=4) if turns > 1 else ratios * 3
    return (
        f"| {name}, {batch} images | {size:.2g} | {small} | {statistics.median(together):.3g} "
        f"| {statistics.median(beside):.3g} | {middle:.2f} ({low:.2f} to {high:.2f}) "
        f"| {memory / 2**30:.1f} GiB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", nargs="+", default=["demo:4", "demo:32", "digits:32", "micro:64"]
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        name, _, batch = given.train.partition(":")
        train(name, int(batch), given.seconds)
        return
    threads = torch.get_num_threads()
    print(
        f"| training | MACs of a step | small | ms, {threads} threads | ms, 1 thread beside "
        f"{threads - 1} | times the steps a second | memory of one |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in given.cases:
        print(compare(case, threads, given.seconds, given.turns), flush=True)


if __name__ == "__main__":
    main()
