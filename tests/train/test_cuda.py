"""What only a GPU can show. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from masktas.config import AllSettings, SupernetSettings, TeacherSettings
from masktas.stages.plan.stage import task_on_noise
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

pytestmark = pytest.mark.gpu


SETTINGS = AllSettings(
    supernet=SupernetSettings(space="micro"),
    teacher=TeacherSettings(embed_dim=64, depth=2, num_heads=2),
)


def task(stage: str, runtime: Runtime):
    return task_on_noise(stage, SETTINGS, runtime, 8)


@pytest.mark.parametrize("stage", ["teacher", "supernet", "finetune"])
def test_a_step_does_not_wait_for_the_device(stage: str):
    made = task(stage, Runtime.choose("cuda", "auto"))
    train_step(made, 0, ALONE, clip_grad=1.0)  # libraries set themselves up
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 4):
            losses = train_step(made, step, ALONE, clip_grad=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("stage", ["teacher", "supernet", "finetune"])
def test_a_step_is_that_of_the_cpu(stage: str):
    losses = []
    for device in ("cpu", "cuda"):
        made = task(stage, Runtime.choose(device, "fp32"))
        losses.append([train_step(made, step, ALONE)["grad_norm"].item() for step in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_bf16_is_the_default():
    assert Runtime.choose("auto", "auto").bf16
