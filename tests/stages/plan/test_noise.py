"""The training of one stage on noise, as benchmarks and the tests of a GPU measure it."""

from __future__ import annotations

import pytest

from masktas.config import AllSettings, SupernetSettings, TeacherSettings
from masktas.stages.plan.stage import task_on_noise
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

SETTINGS = AllSettings(
    supernet=SupernetSettings(space="demo"),
    teacher=TeacherSettings(embed_dim=32, depth=1, num_heads=2, decoder_dim=32, decoder_depth=1),
)


@pytest.mark.parametrize("stage", ["teacher", "supernet", "finetune"])
def test_a_stage_is_trained_on_noise(stage: str) -> None:
    task = task_on_noise(stage, SETTINGS, Runtime.choose("cpu", "fp32"), 3)
    assert task.batch_size == 3
    found = [train_step(task, step, ALONE) for step in range(2)]
    assert all(value.isfinite() for losses in found for value in losses.values())
    assert task.macs(0) > 0
