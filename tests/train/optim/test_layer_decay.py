"""Layer decay: which parameters learn at which rate, by a table made by hand."""

from __future__ import annotations

import pytest
import torch

from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.optim.layer_decay import layer_groups
from masktas.train.optim.sliced_adamw import decay_groups
from masktas.train.tasks.classify import ClassifierRecipe

SHAPE = Architecture(
    embed_dim=8, num_heads=(1, 2), mlp_ratio=(2, 3), head_dim=4, image_size=(8, 8), patch_size=4,
    num_classes=3, pool="mean",
)  # fmt: skip
# Two blocks: layers 0 (stem) to 3 (last norm and head), so half the rate for each layer is
# 1/8, 1/4, 1/2, 1. Weight decay of matrices only.
BLOCK = {
    "norm1.weight": 0, "norm1.bias": 0, "attn.qkv.weight": 0.05, "attn.qkv.bias": 0,
    "attn.proj.weight": 0.05, "attn.proj.bias": 0, "norm2.weight": 0, "norm2.bias": 0,
    "fc1.weight": 0.05, "fc1.bias": 0, "fc2.weight": 0.05, "fc2.bias": 0,
}  # fmt: skip
TABLE = {
    "cls_token": (0.125, 0), "pos_embed": (0.125, 0),
    "patch_embed.weight": (0.125, 0.05), "patch_embed.bias": (0.125, 0),
    **{f"blocks.0.{name}": (0.25, decay) for name, decay in BLOCK.items()},
    **{f"blocks.1.{name}": (0.5, decay) for name, decay in BLOCK.items()},
    "norm.weight": (1, 0), "norm.bias": (1, 0), "head.weight": (1, 0.05), "head.bias": (1, 0),
}  # fmt: skip


@pytest.fixture
def network() -> ViT:
    return ViT(SHAPE)


def test_the_table(network: ViT) -> None:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = layer_groups(network, weight_decay=0.05, layer_decay=0.5)
    found = [
        (names[id(one)], (group["lr_scale"], group["weight_decay"]))
        for group in groups
        for one in group["params"]
    ]
    assert len(found) == len(TABLE)
    assert dict(found) == TABLE
    assert groups[0]["lr_scale"] == 1, "the first group's rate is logged"


def test_without_decay_all_is_as_before(network: ViT) -> None:
    groups = layer_groups(network, weight_decay=0.05, layer_decay=1)
    before = decay_groups(network, 0.05)
    assert [list(map(id, one["params"])) for one in groups] == [
        list(map(id, one["params"])) for one in before
    ]
    assert [one["weight_decay"] for one in groups] == [one["weight_decay"] for one in before]


def test_what_is_frozen_is_in_no_group(network: ViT) -> None:
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    groups = layer_groups(network, weight_decay=0.05, layer_decay=0.5)
    kept = {id(one) for group in groups for one in group["params"]}
    assert kept == {id(one) for one in network.head.parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_schedule_scales_every_layer_from_its_peak_to_its_end(network: ViT, optimizer) -> None:
    recipe = ClassifierRecipe(
        lr=0.8, weight_decay=0.05, total_steps=100, warmup_share=0.1, min_lr=0.08,
        optimizer=optimizer, layer_decay=0.5,
    )  # fmt: skip
    built = recipe.build(network)
    schedule = recipe.schedule(built)
    for step, rate in ((10, 0.8), (55, 0.44), (100, 0.08)):  # the peak, half-way, the end
        schedule.step_update(step)
        rates = sorted({group["lr"] for group in built.param_groups})
        assert rates == pytest.approx([rate / 8, rate / 4, rate / 2, rate])


def test_the_optimisers_have_what_the_recipe_says(network: ViT) -> None:
    recipe = ClassifierRecipe(0.1, 0.05, 10, 0.1, optimizer="sgd", momentum=0.7)
    built = recipe.build(network)
    assert isinstance(built, torch.optim.SGD)
    assert {group["momentum"] for group in built.param_groups} == {0.7}
    built = ClassifierRecipe(0.1, 0.05, 10, 0.1, beta2=0.999).build(network)
    assert isinstance(built, torch.optim.AdamW)
    assert {group["betas"] for group in built.param_groups} == {(0.9, 0.999)}
