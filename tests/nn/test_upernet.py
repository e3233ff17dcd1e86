"""UperNet against transformers' with copied weights: pooling, fusion and the auxiliary head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from masktas.nn.segmenter import UperNet

WIDTH, CHANNELS, CLASSES = 12, 16, 5


def with_group_norms(head: nn.Module, ours: dict[str, nn.Sequential]) -> nn.Module:
    """Give each convolution of transformers the weights, and the norm, of ours."""
    modules = dict(head.named_modules())
    for name, layer in ours.items():
        modules[name].conv.weight.data.copy_(layer[0].weight)
        modules[name].batch_norm = layer[1]
    return head.eval()


@pytest.mark.parametrize("grid", [(6, 8), (7, 5)])
def test_outputs_with_copied_weights_are_those_of_transformers(grid: tuple[int, int]) -> None:
    modeling = pytest.importorskip("transformers.models.upernet.modeling_upernet")
    from transformers import UperNetConfig

    generator = torch.Generator().manual_seed(0)
    ours = UperNet(WIDTH, CHANNELS, CLASSES)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    config = UperNetConfig(
        hidden_size=CHANNELS, num_labels=CLASSES, auxiliary_channels=256, auxiliary_num_convs=1
    )
    layers = {f"psp_modules.{at}.1": one for at, one in enumerate(ours.pooled)}
    layers |= {f"lateral_convs.{at}": one for at, one in enumerate(ours.lateral)}
    layers |= {f"fpn_convs.{at}": one for at, one in enumerate(ours.fused)}
    layers |= {"bottleneck": ours.joined, "fpn_bottleneck": ours.last}
    head = with_group_norms(modeling.UperNetHead(config, [WIDTH] * 4), layers)
    head.classifier.load_state_dict(ours.classify.state_dict())
    auxiliary = with_group_norms(
        modeling.UperNetFCNHead(config, [WIDTH] * 4), {"convs.0": ours.auxiliary}
    )
    auxiliary.classifier.load_state_dict(ours.classify_auxiliary.state_dict())
    maps = [torch.randn(2, WIDTH, *grid, generator=generator) for _ in range(4)]
    with torch.no_grad():
        shallow = [
            norm(one.movedim(1, -1)).movedim(-1, 1)
            for norm, one in zip(ours.norms, maps[:3], strict=True)
        ]
        pyramid = [make(one) for make, one in zip(ours.neck, [*shallow, maps[3]], strict=True)]
        kept = torch.ones(2, CHANNELS + 256)
        found, found_auxiliary = ours(maps, kept)
        assert torch.allclose(found, head(pyramid), atol=1e-5, rtol=1e-4)
        assert torch.allclose(found_auxiliary, auxiliary(pyramid), atol=1e-5, rtol=1e-4)
    assert found.std() > 0.1
    theirs = [*head.parameters(), *auxiliary.parameters()]
    own = [*ours.neck.parameters(), *ours.norms.parameters()]
    assert sum(map(torch.numel, theirs)) + sum(map(torch.numel, own)) == sum(
        map(torch.numel, ours.parameters())
    )
