"""The loss of a segmenter."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from masktas.data.masks import IGNORED
from masktas.nn.segmenter import Segmenter, drop_channels
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.space.decoder import DecoderName
from masktas.train.tasks.segment import pixel_cross_entropy

SHAPE = Architecture(
    embed_dim=16, num_heads=(1, 2), mlp_ratio=(2, 2), head_dim=8, image_size=(16, 24),
    patch_size=4, num_classes=0,
)  # fmt: skip


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_loss_is_the_mean_over_all_pixels_of_what_torch_gives(
    memory: torch.memory_format,
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 6, generator=generator).contiguous(memory_format=memory)
    target = torch.randint(5, (2, 4, 6), generator=generator)
    target[0, :2] = IGNORED
    mine = logits.clone(memory_format=torch.preserve_format).requires_grad_()
    its = logits.contiguous().requires_grad_()
    found = pixel_cross_entropy(mine, target)
    total = F.cross_entropy(its, target, ignore_index=IGNORED, reduction="sum")
    assert found.item() == pytest.approx(total.item() / target.numel())
    found.backward()
    (total / target.numel()).backward()
    torch.testing.assert_close(mine.grad, its.grad)


@pytest.mark.parametrize("decoder", ["linear", "upernet"])
def test_logits_are_stored_as_rows_of_pixels(decoder: DecoderName) -> None:
    """So that the loss copies nothing: a copy costs as much as the loss itself."""
    network = Segmenter(ViT(SHAPE), decoder, 16, 5)
    network.backbone.init_weights(torch.Generator().manual_seed(0))
    network.init_weights(torch.Generator().manual_seed(0))
    kept = drop_channels(2, network.dropped, 0)
    for logits in network(torch.randn(2, 3, 16, 24), None, kept):
        assert logits.is_contiguous(memory_format=torch.channels_last)
        assert logits.movedim(1, -1).flatten(0, 2).data_ptr() == logits.data_ptr()
