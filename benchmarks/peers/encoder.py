"""P1: encoders of random subnets beside AutoFormer's, forward and backward, all patches visible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from masktas.space import Architecture, cost
from masktas.train.runtime import Runtime
from peers.networks import apart, autoformer_supernet, config_of
from peers.search import CLASSES, equal_supernets
from peers.turns import Step
from peers.work import Work


def measure(work: Work) -> dict[str, Any]:
    """Compare; AutoFormer with the relative positions of its recipe is a contender of its own."""
    assert work.autoformer is not None
    shared, plain = equal_supernets(work)
    relative = autoformer_supernet(work.autoformer, work.space, CLASSES, relative=True)
    images = work.images()

    def ours(one: Architecture) -> Tensor:
        network = shared.subnet(one).encoder
        return network.pooled(images)

    def theirs(network: Any) -> Callable[[Architecture], Tensor]:
        def features(one: Architecture) -> Tensor:
            network.set_sample_config(config_of(one))
            return network.forward_features(images)  # type: ignore[no-any-return]

        return features

    with torch.no_grad():
        far = max(apart(ours(one), theirs(plain)(one)) for one in work.drawn[:2])

    def stepping(features: Callable[[Architecture], Tensor], network: Any = None) -> Any:
        def make(runtime: Runtime) -> Step:
            def step(number: int) -> None:
                if network is not None:
                    network.zero_grad()
                with runtime.autocast():
                    loss = features(work.at(number)).float().square().mean()
                loss.backward()

            return step

        return make

    contenders = work.contenders(
        masktas=stepping(ours),
        AutoFormer=stepping(theirs(plain), plain),
        AutoFormer_with_relative_positions=stepping(theirs(relative), relative),
    )
    return work.compared("encoders of subnets, forward and backward", contenders,
                         lambda step: flops(work, step), far=far)  # fmt: skip


def flops(work: Work, step: int) -> float:
    """Return the flops of a step: the embedding's input needs no gradient."""
    one = work.at(step)
    return 2.0 * work.batch * cost.training_macs(one, one.num_patches, 0)
