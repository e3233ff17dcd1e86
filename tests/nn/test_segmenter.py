"""The segmenter: shapes, batches of one image, the backbone it shares, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from masktas.nn.segmenter import Segmenter, depths_of_maps, drop_channels
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.space.decoder import Decoder, DecoderName

SHAPE = Architecture(
    embed_dim=16, num_heads=(1, 2, 1), mlp_ratio=(2, 2, 2), head_dim=8, image_size=(16, 24),
    patch_size=4, num_classes=0,
)  # fmt: skip


def segmenter(decoder: DecoderName) -> Segmenter:
    generator = torch.Generator().manual_seed(0)
    vit = ViT(SHAPE)
    vit.init_weights(generator)
    network = Segmenter(vit, decoder, 16, 5)
    network.init_weights(generator)
    return network


@pytest.mark.parametrize("decoder", ["linear", "upernet"])
def test_logits_have_the_size_of_the_image_also_for_one_image(decoder: DecoderName) -> None:
    network = segmenter(decoder)
    for images in (1, 2):
        pixels = torch.randn(images, 3, 16, 24)
        kept = drop_channels(images, network.dropped, 0)
        found = network(pixels, None, kept)
        assert [one.shape for one in found] == [(images, 5, 16, 24)] * len(found)
        assert len(found) == (2 if decoder == "upernet" else 1)
        sum(one.square().mean() for one in found).backward()
        assert all(one.grad is not None for one in network.parameters())
        assert len(network.eval()(pixels)) == 1
        network.train()


def test_images_do_not_depend_on_others_of_the_batch() -> None:
    network = segmenter("upernet").eval()
    pixels = torch.randn(3, 3, 16, 24)
    together = network(pixels)[0]
    alone = torch.cat([network(one[None])[0] for one in pixels])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "expected"), [(12, (4, 6, 8, 12)), (14, (4, 7, 9, 14)), (1, (1, 1, 1, 1))]
)
def test_maps_are_taken_at_a_third_a_half_two_thirds_and_the_end(
    depth: int, expected: tuple[int, ...]
) -> None:
    assert depths_of_maps(depth) == expected


def test_maps_are_the_tokens_of_the_blocks_in_the_order_of_the_grid() -> None:
    network = segmenter("upernet").eval()
    pixels = torch.randn(2, 3, 16, 24)
    maps = network.maps(pixels)
    vit = network.backbone
    patches = pixels.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(2, 24, 48)
    x, after = vit.embed_patches(patches), []
    for block in vit.blocks:
        x = block(x)
        after.append(x)
    expected = [after[0], after[0], after[1], vit.norm(after[2])]
    for found, tokens in zip(maps, expected, strict=True):
        for row in range(4):
            for column in range(6):
                assert torch.allclose(
                    found[:, :, row, column], tokens[:, 1 + row * 6 + column], atol=1e-6
                )


def test_dropped_channels_are_scaled_and_seeded() -> None:
    kept = drop_channels(50, 100, 3)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert kept.mean() == pytest.approx(1, abs=0.02)
    assert torch.equal(kept, drop_channels(50, 100, 3))
    assert not torch.equal(kept, drop_channels(50, 100, 4))


@pytest.mark.parametrize("size", [(16, 24), (20, 12), (4, 4)])
@pytest.mark.parametrize("decoder", ["linear", "upernet"])
def test_costs_of_a_decoder_are_those_of_the_module(
    decoder: DecoderName, size: tuple[int, int]
) -> None:
    backbone = SHAPE.replace(image_size=size, embed_dim=24)
    with torch.device("meta"):
        built = Segmenter(ViT(backbone), decoder, 40, 7).eval().decoder
        maps = [torch.empty(1, 24, *backbone.grid) for _ in built.maps_after(3)]
        with FlopCounterMode(display=False) as counter:
            built(maps, None)
    cost = Decoder(decoder, 40, 7)
    assert cost.params(backbone) == sum(one.numel() for one in built.parameters())
    assert cost.macs(backbone) == counter.get_total_flops() // 2
