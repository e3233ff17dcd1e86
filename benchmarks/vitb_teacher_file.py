"""Write a file in the public MAE format with a ViT-B of random weights, to run with as --teacher.

    python benchmarks/vitb_teacher_file.py vitb.pth
    masktas run IMAGES --out RUN --space small --teacher vitb.pth

It has the released file's names and shapes (224 pixels in patches of 16, decoder 512 wide and 8
deep) and weights as they are before training, so it takes the time and memory of a true one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from masktas.nn.patches import sincos_positions

PATCH, SIDE, CHANNELS = 16, 14, 3
WIDTH, DEPTH = 768, 12
DECODER_WIDTH, DECODER_DEPTH = 512, 8


def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Tensor]]:
    weight = torch.empty(rows, columns)
    yield f"{name}.weight", nn.init.xavier_uniform_(weight)
    yield f"{name}.bias", torch.zeros(rows)


def norm(name: str, width: int) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", torch.ones(width)
    yield f"{name}.bias", torch.zeros(width)


def block(name: str, width: int) -> Iterator[tuple[str, Tensor]]:
    yield from norm(f"{name}.norm1", width)
    yield from linear(f"{name}.attn.qkv", 3 * width, width)
    yield from linear(f"{name}.attn.proj", width, width)
    yield from norm(f"{name}.norm2", width)
    yield from linear(f"{name}.mlp.fc1", 4 * width, width)
    yield from linear(f"{name}.mlp.fc2", width, 4 * width)


def positions(width: int) -> Tensor:
    return torch.cat([torch.zeros(1, 1, width), sincos_positions(width, (SIDE, SIDE))], dim=1)


def encoder() -> Iterator[tuple[str, Tensor]]:
    yield "cls_token", 0.02 * torch.randn(1, 1, WIDTH)
    yield "pos_embed", positions(WIDTH)
    for name, tensor in linear("patch_embed.proj", WIDTH, CHANNELS * PATCH * PATCH):
        convolution = tensor.ndim == 2
        yield name, tensor.view(WIDTH, CHANNELS, PATCH, PATCH) if convolution else tensor
    for number in range(DEPTH):
        yield from block(f"blocks.{number}", WIDTH)
    yield from norm("norm", WIDTH)


def decoder() -> Iterator[tuple[str, Tensor]]:
    yield "mask_token", 0.02 * torch.randn(1, 1, DECODER_WIDTH)
    yield "decoder_pos_embed", positions(DECODER_WIDTH)
    yield from linear("decoder_embed", DECODER_WIDTH, WIDTH)
    for number in range(DECODER_DEPTH):
        yield from block(f"decoder_blocks.{number}", DECODER_WIDTH)
    yield from norm("decoder_norm", DECODER_WIDTH)
    yield from linear("decoder_pred", CHANNELS * PATCH * PATCH, DECODER_WIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--encoder-only", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    state = dict(encoder()) | ({} if given.encoder_only else dict(decoder()))
    torch.save({"model": state}, given.path)
    print(f"{given.path}: {sum(t.numel() for t in state.values()) / 1e6:.1f} M numbers")


if __name__ == "__main__":
    main()
