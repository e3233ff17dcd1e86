"""Layer-wise learning rates of fine-tuning (BEiT, MAE): the earlier a layer, the slower it learns.

timm's `param_groups_layer_decay` counts the last norm as a part of the last block; MAE gives it the
whole rate. Its groups' `lr_scale` is what timm's schedules read, and so they are used here.
"""

from __future__ import annotations

from typing import Any

from masktas.nn.segmenter import Segmenter
from masktas.nn.vit import ViT
from masktas.train.optim.sliced_adamw import decay_groups

STEM = ("patch_embed.", "cls_token", "pos_embed")
BLOCKS = "blocks."
BACKBONE = "backbone."  # begins the names of a segmenter's ViT


def layer_of(name: str, depth: int) -> int:
    """Return the layer of a parameter: stem 0, block i (from 0) i + 1, last norm and head L + 1.

    A decoder of segmentation is of the last layer too.
    """
    name = name.removeprefix(BACKBONE)
    if name.startswith(STEM):
        return 0
    if name.startswith(BLOCKS):
        return int(name.split(".")[1]) + 1
    return depth + 1


def layer_groups(
    network: ViT | Segmenter, *, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Group a network's trained parameters by layer, the head's first, and by weight decay.

    Layer `i` of `L + 2` has the scale `layer_decay ** (L + 1 - i)` as `lr_scale`, so the first
    group has the whole rate, which is the one that is logged. Norms, biases, positions and tokens
    have no weight decay. With a layer decay of 1, these are the groups of `decay_groups`.
    """
    groups = decay_groups(network, weight_decay)
    if layer_decay == 1:
        return groups
    depth = network.architecture.depth
    layers = {
        id(parameter): layer_of(name, depth) for name, parameter in network.named_parameters()
    }
    divided = []
    for layer in range(depth + 1, -1, -1):
        for group in groups:
            of_layer = [one for one in group["params"] if layers[id(one)] == layer]
            if of_layer:
                scale = layer_decay ** (depth + 1 - layer)
                divided.append({**group, "params": of_layer, "lr_scale": scale})
    return divided
