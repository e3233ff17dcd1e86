"""What only a GPU can show. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from masktas.config import FinetuneSettings, SupernetSettings, TeacherSettings
from masktas.data.batches import Augment, Batches
from masktas.data.store.image_store import Images
from masktas.nn.teachers.teacher import EncoderTeacher
from masktas.nn.vit import ViT
from masktas.space import SearchSpace
from masktas.stages.common.tasks import (
    Setup,
    classifier_task,
    supernet_task,
    teacher_architecture,
    teacher_task,
)
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

pytestmark = pytest.mark.gpu


SPACE = SearchSpace.preset("micro")
SHAPE = {"patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2, "batch_size": 8}


def task(stage: str, runtime: Runtime):
    rng = np.random.default_rng(0)
    rows = np.arange(16)
    batches = Batches(
        Images(rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8), rows, rows, "noise"),
        image_size=(32, 32), mean=[0.5] * 3, std=[0.25] * 3, batch_size=8, seed=0,
        device=runtime.device, augment=Augment((0.5, 1.0), True),
    )  # fmt: skip
    setup = Setup(0, runtime, ALONE)
    shape = teacher_architecture(TeacherSettings(**SHAPE), 32, 3)
    if stage == "teacher":
        return teacher_task(TeacherSettings(**SHAPE), shape, batches, setup)[1]
    if stage == "supernet":
        settings = SupernetSettings(space="micro", batch_size=8)
        encoder = ViT(shape)
        encoder.init_weights(setup.generator("encoder"))
        return supernet_task(settings, SPACE, EncoderTeacher(encoder), batches, setup)[1]
    one = SPACE.middle.replace(num_classes=3)
    target = torch.arange(16) % 3
    return classifier_task(FinetuneSettings(batch_size=8), one, None, batches, target, setup)[1]


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
