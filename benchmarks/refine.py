"""A step of a cohort, and the steps of its students by themselves.

Command   python benchmarks/refine.py [--members 8] [--batch 256] [--steps 12]
Shows     seconds of a step of `masktas refine` on images of CIFAR-10's size (32 x 32, patches of 4,
          noise), for a cohort of different networks of the micro space under a teacher of 192 x 6,
          with features only and with pixels too:
          1. cohort: crops, masks, teacher, and forward, backward and update of all members;
          2. alone: forward, backward and update of each member, one after the other, on inputs that
             are there already: what cannot be shared.
          Both take turns step by step, so that what else the machine does meets both alike.
Limit     the median cohort step takes at most 1.3 times the median of the sum. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from masktas.config import RefineSettings, SupernetSettings, TrainSettings
from masktas.data.batches import Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.nn.student import MaskedStudent
from masktas.nn.supernet import Supernet
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.units import units_of
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace
from masktas.stages.common.tasks import Setup, augment, cohort_task, supernet_task
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step
from masktas.train.tasks.cohort import CohortDistillation

LIMIT = 1.3


def noise(batch: int, settings: TrainSettings, runtime: Runtime) -> Batches:
    pixels = np.random.default_rng(0).integers(0, 256, (4 * batch, 32, 32, 3), dtype=np.uint8)
    return Batches(
        Images(InMemory(pixels), np.arange(len(pixels)), "noise"),
        image_size=(32, 32),
        mean=[0.5] * 3,
        std=[0.25] * 3,
        batch_size=batch,
        seed=0,
        device=runtime.device,
        augment=augment(settings),
    )


def seconds(do: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    do()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def in_turns(
    whole: CohortDistillation, single: list[CohortDistillation], steps: int, device: torch.device
) -> tuple[float, float]:
    """Return the median seconds of a cohort's step, and of those of its members."""
    inputs = single[0].inputs(0, slice(None))
    of_cohort, of_sum = [], []
    for step in range(steps + 2):
        of_cohort.append(seconds(lambda step=step: train_step(whole, step, ALONE), device))
        of_sum.append(seconds(lambda: alone(single, inputs), device))
    return statistics.median(of_cohort[2:]), statistics.median(of_sum[2:])


def alone(tasks: list[CohortDistillation], inputs: object) -> None:
    """Train each member by itself on inputs that are there already."""
    for task in tasks:
        (network,) = task.networks(0)
        next(iter(task.losses(network, inputs).values())).backward()
        task.update(network)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    runtime = Runtime.choose("auto", "auto")
    setup = Setup(0, runtime, ALONE)
    settings = RefineSettings(batch_size=arguments.batch).of_round(1)
    batches = noise(arguments.batch, settings, runtime)
    shape = Architecture(192, (6,) * 6, (4,) * 6, head_dim=32, image_size=(32, 32), patch_size=4,
                         num_classes=0)  # fmt: skip
    teacher = EncoderTeacher(ViT(shape))
    space = SearchSpace.preset("micro")
    shared: Supernet = supernet_task(
        SupernetSettings(), space, units_of((32, 32), 4), teacher, batches, setup
    )[0]
    rng = random.Random(0)
    drawn = [space.sample(rng) for _ in range(arguments.members)]

    def cohort(students: dict[str, MaskedStudent], pixels: bool) -> CohortDistillation:
        return cohort_task(
            settings, students, shared.shape, teacher, batches, setup, mask_ratio=0.75,
            pixels=pixels,
        )  # fmt: skip

    missed = False
    print(f"{arguments.members} networks, {arguments.batch} images a step, {runtime.describe()}")
    for pixels in (False, True):
        whole = cohort({str(n): shared.extract_student(one) for n, one in enumerate(drawn)}, pixels)
        single = [cohort({"0": shared.extract_student(one)}, pixels) for one in drawn]
        mine, its = in_turns(whole, single, arguments.steps, runtime.device)
        what = "features and pixels" if pixels else "features"
        print(f"{what}: cohort {mine:.3f} s, students {its:.3f} s, ratio {mine / its:.2f}")
        missed |= mine / its > LIMIT
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
