"""Tasks from settings, and settings that follow from the network or the stage that is resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from masktas.artifacts import METRICS, SETTINGS, Stage
from masktas.config import FinetuneSettings, SupernetSettings
from masktas.config.recipes import RECIPES
from masktas.console import Console
from masktas.data.batches import Batches
from masktas.data.store.image_store import Images, InMemory
from masktas.files import write_json
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.stages.common.tasks import (
    Setup,
    augment,
    classifier_task,
    finetuning_for,
    with_mask_ratio,
)
from masktas.train.ranks import ALONE
from masktas.train.runtime import Runtime
from masktas.train.step import train_step

SHAPE = Architecture(
    embed_dim=8, num_heads=(1, 2), mlp_ratio=(2, 3), head_dim=4, image_size=(8, 8), patch_size=4,
    num_classes=3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("started", "made", "ratio"),
    [
        (None, False, 0.62),
        (0.9, True, 0.9),  # by a version that always took the paper's
        (0.9, False, 0.62),  # a claim without results is ignored
        (0.75, True, 0.62),  # other settings, which the claim refuses
        (0.62, True, 0.62),
    ],
)
def test_a_stage_of_an_earlier_version_is_resumed_with_its_mask_ratio(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    started: float | None,
    made: bool,
    ratio: float,
) -> None:
    stage = Stage("supernet", tmp_path)
    if started:
        write_json(tmp_path / SETTINGS, {"settings": {"mask_ratio": started}})
    if made:
        (tmp_path / METRICS).write_text("")
    console = Console()
    assert with_mask_ratio(SupernetSettings(), 16, stage, console).mask_ratio == ratio
    visible = {0.9: 1, 0.62: 6}[ratio]
    said = f"Mask ratio {ratio}: {visible} of 16 patches are visible.\n"
    assert capsys.readouterr().err == said
    set_by_user = SupernetSettings(mask_ratio=0.5)
    assert with_mask_ratio(set_by_user, 16, stage, console) == set_by_user
    assert with_mask_ratio(SupernetSettings(), 16, None, None).mask_ratio == 0.62
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["auto", *RECIPES])
def test_every_recipe_trains(name: str) -> None:
    """From other weights, all that it trains moves in a step, and nothing else."""
    said = FinetuneSettings(recipe=name, batch_size=6, epochs=2, warmup_share=0, lr=2)
    settings, _ = finetuning_for(said, SHAPE)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3), dtype=np.uint8)
    device = torch.device("cpu")
    batches = Batches(
        Images(InMemory(pixels), np.arange(12), "supernet"), image_size=(8, 8), mean=[0.5] * 3,
        std=[0.25] * 3, batch_size=6, seed=0, device=device, augment=augment(settings),
    )  # fmt: skip
    start = ViT(SHAPE.replace(num_classes=0))
    start.init_weights(torch.Generator().manual_seed(7))
    network, task = classifier_task(
        settings, SHAPE.replace(pool=settings.pool), start, batches, torch.arange(12) % 3,
        Setup(0, Runtime(device, bf16=False), ALONE),
    )  # fmt: skip
    assert torch.equal(network.patch_embed.weight, start.patch_embed.weight)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for step in range(2):  # the head is zero at first: nothing behind it has a gradient
        loss = train_step(task, step, ALONE)["loss"]
    assert loss.isfinite()
    after = network.state_dict()
    moved = {name for name in before if not after[name].equal(before[name])}
    assert moved >= {"head.weight", "head.bias"}
    assert ("blocks.0.fc1.weight" in moved) == (not settings.freeze)
    assert ("patch_embed.weight" in moved) == (not settings.freeze)


def test_size_is_that_of_the_network_without_its_head() -> None:
    wide = Architecture(embed_dim=512, num_heads=(8,) * 8, mlp_ratio=(4,) * 8, num_classes=0)
    for classes in (None, 10, 20_000):
        assert (
            finetuning_for(FinetuneSettings(), wide.replace(num_classes=classes))[1]
            == (finetuning_for(FinetuneSettings(), wide)[1])
        )
