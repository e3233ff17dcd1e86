"""The one Vision Transformer: teacher, subnet, fine-tuned network and export are this class.

Shapes: B images, V tokens of patches (all N, or the visible ones), T = V + 1 with the class
token, D width, h heads of d channels, S = P*P*C numbers of a patch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from masktas.nn.compiled import applied
from masktas.nn.patches import patchify, sincos_positions, take
from masktas.space import Architecture

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention of `num_heads * head_dim` channels, independent of the width.

    Rows of `qkv` are ordered [head][q, k, v][channel], so the first heads are its first rows.
    """

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv = nn.Linear(embed_dim, 3 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention to tokens `[B, T, D]`."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, self.num_heads, 3, self.head_dim)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)  # 3 x [B, h, T, d]
        x = attend(query, key, value)
        x = x.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim)
        return self.proj(x)  # type: ignore[no-any-return]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of `[B, h, T, d]` each.

    On a CPU it runs in float32 even under bfloat16 autocast, since torch's bfloat16 backward pass
    is several times slower there (docs/log.md).
    """
    if query.device.type != "cpu" or query.dtype in (torch.float32, torch.float64):
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        x = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    return x.to(query.dtype)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.attn = Attention(embed_dim, num_heads, head_dim)
        self.norm2 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, embed_dim)

    def forward(self, x: Tensor, branches: Tensor | None = None) -> Tensor:
        """Apply the block to tokens `[B, T, D]`; `branches [2, B]` scales attention and MLP."""
        attended = self.attn(self.norm1(x))
        x = x + (attended if branches is None else _scaled(attended, branches[0]))
        refined = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + (refined if branches is None else _scaled(refined, branches[1]))


def _scaled(x: Tensor, by: Tensor) -> Tensor:
    return x * by.to(x.dtype)[:, None, None]


def run_blocks(
    blocks: Iterable[nn.Module], x: Tensor, branches: Tensor | None = None, *, recompute: bool
) -> Tensor:
    """Apply blocks to tokens `[B, T, D]`, within `CompiledBlocks.used` by compiled graphs.

    Args:
        blocks: applied in this order.
        x: the tokens.
        branches: `[L, 2, B]`, see `stochastic_depth`.
        recompute: activation checkpointing: keep the input of each block only and recompute
            the rest in the backward pass, for much less memory and a third more arithmetic.
    """
    apply = applied()
    for index, block in enumerate(blocks):
        scales = None if branches is None else branches[index]
        if recompute and torch.is_grad_enabled():
            x = checkpoint(apply, block, x, scales, use_reentrant=False, preserve_rng_state=False)
        else:
            x = apply(block, x, scales)
    return x


def stochastic_depth(depth: int, drop_path: float, batch: int, seed: int) -> Tensor:
    """Draw the scale of each branch of each block for each image, 0 if dropped: `[L, 2, B]`.

    The drop probability rises linearly from 0 in the first block to `drop_path` in the last.
    Kept branches are scaled up to keep the expectation. Drawn on the CPU for a whole batch, so the
    result does not depend on the device or on how the batch is divided.
    """
    rates = drop_path * torch.arange(depth) / max(1, depth - 1)
    keep = (1 - rates)[:, None, None]
    noise = torch.rand(depth, 2, batch, generator=torch.Generator().manual_seed(seed))
    return (noise < keep) / keep


class ViT(nn.Module):
    """A plain Vision Transformer built from an `Architecture`.

    Args:
        architecture: the shape; there is a head if `num_classes` is above 0.

    Weights have torch's default initialisation until `init_weights` or `load_state_dict`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.embed_dim
        self.patch_embed = nn.Linear(architecture.patch_dim, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, architecture.num_patches + 1, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, architecture.head_dim, hidden)
            for heads, hidden in zip(architecture.num_heads, architecture.mlp_dim, strict=True)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        classes = architecture.num_classes
        self.head = nn.Linear(width, classes) if classes else None

    def forward_features(
        self,
        patches: Tensor,
        ids: Tensor | None = None,
        branches: Tensor | None = None,
        *,
        recompute: bool = False,
    ) -> Tensor:
        """Encode patches `[B, V, S]` to normalised tokens `[B, 1 + V, D]`, the class token first.

        `ids [B, V]` are the indices of these patches; None means all patches in order. See
        `run_blocks` for `branches [L, 2, B]` and `recompute`.
        """
        x = self.embed_patches(patches, ids)
        x = run_blocks(self.blocks, x, branches, recompute=recompute)
        return self.norm(x)  # type: ignore[no-any-return]

    def embed_patches(self, patches: Tensor, ids: Tensor | None = None) -> Tensor:
        """Embed patches `[B, V, S]` with positions and class token: `[B, 1 + V, D]`."""
        positions = self.pos_embed[:, 1:]  # [1, N, D]
        x = self.patch_embed(patches) + (positions if ids is None else take(positions, ids))
        token = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        return torch.cat([token.to(x.dtype), x], dim=1)

    def forward(
        self, images: Tensor, branches: Tensor | None = None, *, recompute: bool = False
    ) -> Tensor:
        """Classify images `[B, C, H, W]`: logits `[B, K]`; without a head, features `[B, D]`."""
        x = self.pooled(images, branches, recompute=recompute)
        return x if self.head is None else self.head(x)

    def pooled(
        self, images: Tensor, branches: Tensor | None = None, *, recompute: bool = False
    ) -> Tensor:
        """Encode images `[B, C, H, W]` to features `[B, D]`, pooled as the head takes them."""
        patches = patchify(images, self.architecture.patch_size)
        if self.architecture.pool != "mean-norm":
            return self.pool(self.forward_features(patches, None, branches, recompute=recompute))
        x = self.embed_patches(patches)
        tokens = run_blocks(self.blocks, x, branches, recompute=recompute)
        return self.norm(self.pool(tokens))  # type: ignore[no-any-return]

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Return logits `[B, K]` of tokens `[B, 1 + V, D]`; without a head, features `[B, D]`."""
        x = self.pool(tokens)
        return x if self.head is None else self.head(x)

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool tokens `[B, 1 + V, D]` as the head takes them, `[B, D]`."""
        return tokens[:, 0] if self.architecture.pool == "cls" else tokens[:, 1:].mean(dim=1)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise as MAE does: sine-cosine positions, and the head like any other matrix.

        From a head of zeros the blocks would learn nothing until it has grown (transfer.md).
        """
        init_linears(self, generator)
        nn.init.normal_(self.cls_token, std=0.02, generator=generator)
        self.pos_embed.zero_()
        self.pos_embed[:, 1:] = sincos_positions(
            self.architecture.embed_dim, self.architecture.grid
        )


def init_linears(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise matrices Xavier-uniformly and biases with zero (MAE)."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight, generator=generator)
            nn.init.zeros_(child.bias)
        elif isinstance(child, nn.LayerNorm):
            child.reset_parameters()
