"""P8: the network of fine-tuning beside timm's equal one: forward, backward and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.nn.timm_weights import to_timm
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace, cost
from masktas.train.runtime import Runtime
from peers.networks import apart, timm_network
from peers.turns import Step
from peers.work import Work, training

Classifier = Callable[[Tensor], Tensor]


def equal_pair(space: SearchSpace, device: torch.device) -> tuple[ViT, nn.Module]:
    """Return the network of the middle of a space, ours and timm's of equal weights."""
    shape = space.middle
    ours = ViT(shape.replace(num_classes=cost.counted_classes(shape)))
    ours.init_weights(torch.Generator().manual_seed(0))
    assert ours.head is not None
    nn.init.normal_(ours.head.weight, std=0.02)  # 0 would hide a difference
    its = timm_network(ours.architecture)
    its.load_state_dict(to_timm(ours))
    return ours.to(device), its.to(device)


def classifying(called: Classifier, network: nn.Module, images: Tensor, runtime: Runtime) -> Step:
    """Return a step of training a network; `called` is the network, or what was compiled of it."""
    target = torch.zeros(len(images), dtype=torch.long, device=images.device)
    return training(network, lambda _: F.cross_entropy(called(images).float(), target), runtime)


def training_flops(shape: Architecture, images: int) -> float:
    """Return the flops of a step of training a classifier."""
    head = cost.counted_classes(shape) * shape.embed_dim
    return 2.0 * images * cost.training_macs(shape, shape.num_patches, head)


def measure(work: Work) -> dict[str, Any]:
    """Compare; with `work.compiled` also timm's network compiled, and ours."""
    device = torch.device("cpu")
    images = work.images()
    with torch.no_grad():
        ours, its = equal_pair(work.space, device)
        far = apart(ours(images[:2]), its(images[:2]))

    def made(own: bool, compiled: bool = False) -> Callable[[Runtime], Step]:
        def make(runtime: Runtime) -> Step:
            network = equal_pair(work.space, device)[0 if own else 1]
            called = torch.compile(network, dynamic=False) if compiled else network
            return classifying(called, network, images, runtime)

        return make

    makers = {"masktas": made(True), "timm": made(False)}
    if work.compiled:
        makers |= {"masktas_compiled": made(True, True), "timm_compiled": made(False, True)}
    flops = training_flops(ours.architecture, work.batch)
    return work.compared(
        "network of fine-tuning: forward, backward, AdamW", work.contenders(**makers),
        lambda _: flops, far=far,
    )  # fmt: skip
