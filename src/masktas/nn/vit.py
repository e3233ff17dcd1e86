"""The one Vision Transformer: teacher, subnet, fine-tuned network and export are this class.

Shapes: B images, V tokens of patches (all N, or the visible ones), T = V + 1 with the class
token, D width, h heads of d channels, S = P*P*C numbers of a patch, K classes.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from masktas.nn.patches import patchify, sincos_positions, take
from masktas.space import Architecture

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention of `num_heads * head_dim` channels, whatever the width.

    Rows of `qkv` are ordered [head][q, k, v][channel], so the first heads are its first rows.
    """

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv = nn.Linear(embed_dim, 3 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens `[B, T, D]`."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, self.num_heads, 3, self.head_dim)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)  # 3 x [B, h, T, d]
        x = attend(query, key, value)
        x = x.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim)
        return self.proj(x)  # type: ignore[no-any-return]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend, `[B, h, T, d]` each, fused.

    On a CPU it is done in float32 also where the products around it are in bfloat16: torch's
    bfloat16 backward is several times slower there (docs/log.md).
    """
    if query.device.type != "cpu" or query.dtype in (torch.float32, torch.float64):
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        x = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    return x.to(query.dtype)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(
        self, embed_dim: int, num_heads: int, head_dim: int, mlp_dim: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.attn = Attention(embed_dim, num_heads, head_dim)
        self.norm2 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, embed_dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Refine tokens `[B, T, D]`."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """A plain Vision Transformer built from an `Architecture`.

    Args:
        architecture: its shape; a head is there if `num_classes` is above 0.
        drop_path: chance that the last block is left out in training; earlier ones
            proportionally less (0 for the first).

    The weights are torch's own until `init_weights` is called or a state is loaded.
    """

    def __init__(self, architecture: Architecture, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        width, depth = architecture.embed_dim, architecture.depth
        pixels = architecture.patch_size**2 * architecture.in_channels
        self.patch_embed = nn.Linear(pixels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, architecture.num_patches + 1, width))
        self.blocks = nn.ModuleList(
            Block(
                width, heads, architecture.head_dim, hidden, drop_path * index / max(1, depth - 1)
            )
            for index, (heads, hidden) in enumerate(
                zip(architecture.num_heads, architecture.mlp_dim, strict=True)
            )
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        classes = architecture.num_classes
        self.head = nn.Linear(width, classes) if classes else None

    def forward_features(self, patches: Tensor, ids: Tensor | None = None) -> Tensor:
        """Encode patches `[B, V, S]` to normalised tokens `[B, 1 + V, D]`, the class token first.

        `ids [B, V]` says which patches they are; None means all of them, in order.
        """
        positions = self.pos_embed[:, 1:]  # [1, N, D]
        x = self.patch_embed(patches) + (positions if ids is None else take(positions, ids))
        token = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        x = torch.cat([token.to(x.dtype), x], dim=1)  # [B, 1 + V, D]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Classify images `[B, C, H, W]`: logits `[B, K]`; without a head, features `[B, D]`."""
        tokens = self.forward_features(patchify(images, self.architecture.patch_size))
        x = tokens[:, 0] if self.architecture.pool == "cls" else tokens[:, 1:].mean(dim=1)
        return x if self.head is None else self.head(x)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw starting weights: sine-cosine positions, a head of zeros, the rest as MAE does."""
        init_linears(self, generator)
        nn.init.normal_(self.cls_token, std=0.02, generator=generator)
        self.pos_embed.zero_()
        self.pos_embed[:, 1:] = sincos_positions(
            self.architecture.embed_dim, self.architecture.grid
        )
        if self.head is not None:
            nn.init.zeros_(self.head.weight)


def init_linears(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every matrix Xavier-uniformly and zero every bias (MAE)."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight, generator=generator)
            nn.init.zeros_(child.bias)
        elif isinstance(child, nn.LayerNorm):
            child.reset_parameters()
