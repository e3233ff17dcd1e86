"""Teachers as others release them, with random weights: names and layouts of their files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

# Arguments of `official_mae` for a small one.
SMALL = {"width": 64, "depth": 2, "patch": 8, "side": 4, "decoder": (64, 2)}


def official_mae(
    *,
    width: int,
    depth: int,
    patch: int,
    side: int,
    channels: int = 3,
    ratio: float = 4,
    decoder: tuple[int, int] | None = (64, 1),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return a state dict in the public MAE format; `decoder` is its width and depth."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, scale: float | None = None) -> Tensor:
        scale = 0.2 if scale is None else scale
        return scale * torch.randn(shape, generator=generator)

    def linear(name: str, rows: int, columns: int) -> dict[str, Tensor]:
        weight = drawn(rows, columns, scale=columns**-0.5)
        return {f"{name}.weight": weight, f"{name}.bias": drawn(rows)}

    def norm(name: str, size: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + drawn(size), f"{name}.bias": drawn(size)}

    def block(name: str, size: int, hidden: int) -> dict[str, Tensor]:
        return {
            **norm(f"{name}.norm1", size),
            **linear(f"{name}.attn.qkv", 3 * size, size),
            **linear(f"{name}.attn.proj", size, size),
            **norm(f"{name}.norm2", size),
            **linear(f"{name}.mlp.fc1", hidden, size),
            **linear(f"{name}.mlp.fc2", size, hidden),
        }

    pixels = channels * patch * patch
    state = {
        "cls_token": drawn(1, 1, width),
        "pos_embed": drawn(1, side * side + 1, width),
        "patch_embed.proj.weight": drawn(width, channels, patch, patch, scale=pixels**-0.5),
        "patch_embed.proj.bias": drawn(width),
        **norm("norm", width),
    }
    for number in range(depth):
        state |= block(f"blocks.{number}", width, int(width * ratio))
    if decoder is not None:
        size, blocks = decoder
        positions = drawn(1, side * side + 1, size)
        positions[:, 0] = 0  # the class token has none
        state |= {
            "mask_token": drawn(1, 1, size),
            "decoder_pos_embed": positions,
            **linear("decoder_embed", size, width),
            **norm("decoder_norm", size),
            **linear("decoder_pred", pixels, size),
        }
        for number in range(blocks):
            state |= block(f"decoder_blocks.{number}", size, 4 * size)
    return state


def write_official(path: Path, state: dict[str, Tensor]) -> Path:
    """Write a file as the public MAE code does."""
    torch.save({"model": state}, path)
    return path
