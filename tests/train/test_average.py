"""The moving average of weights: timm's arithmetic, the warm-up by hand, and its state."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3

from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.average import AveragedNetwork
from masktas.train.checkpoint import TrainingState

SHAPE = Architecture(
    embed_dim=8, num_heads=(1, 2), mlp_ratio=(2, 3), head_dim=4, image_size=(8, 8), patch_size=4,
    num_classes=3, pool="mean",
)  # fmt: skip


def shifted(network: ViT, seed: int) -> None:
    """Change every weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def same(one: ViT, other: ViT) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], its[name]) for name in mine | its)


def test_it_is_timms(randomize) -> None:
    network = randomize(ViT(SHAPE), 0)
    both, timms = AveragedNetwork(network, 0.6), ModelEmaV3(network, decay=0.6, use_warmup=True)
    weights = []
    for number in range(1, 9):
        shifted(network, number)
        weights.append(network.head.weight.detach().clone())
        both.update()
        timms.update(network, step=number)
    assert same(both.average, timms.module)
    assert not same(both.average, network)
    average = weights[0]  # by hand: the first update copies
    for number, weight in enumerate(weights[1:], start=2):
        decay = min(0.6, 1 - number ** (-2 / 3))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(both.average.head.weight, average)


def test_it_is_neither_trained_nor_run(randomize) -> None:
    network = randomize(ViT(SHAPE), 0)
    both = AveragedNetwork(network, 0.9)
    trained = {id(one) for one in both.parameters() if one.requires_grad}
    assert trained == set(map(id, network.parameters()))
    shifted(network, 1)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(both(images), network(images))
    assert not torch.equal(both(images), both.average(images))


def test_its_state_is_restored(randomize) -> None:
    def made() -> tuple[AveragedNetwork, TrainingState]:
        both = AveragedNetwork(randomize(ViT(SHAPE), 0), 0.9)
        return both, TrainingState(both, torch.optim.SGD(both.network.parameters(), lr=0.1))

    both, state = made()
    for number in (1, 2, 3):
        shifted(both.network, number)
        both.update()
    kept = {name: tensor.clone() for name, tensor in state.tensors().items()}
    other, filled = made()
    filled.fill(kept)
    for one in (both, other):
        shifted(one.network, 4)
        one.update()
    assert int(other.updates) == 4
    assert same(other.average, both.average)
