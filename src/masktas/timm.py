"""The architecture `masktas_vit` of timm; importing this module registers it.

`import masktas.timm`, then `timm.create_model("local-dir:EXPORT", pretrained=True)` opens what
`masktas export` wrote, and everything of timm works: features, other image sizes, training.
timm's own Vision Transformers have the same heads and MLP width in every block; this one has not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from timm.layers import Attention, LayerNorm
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import nn

from masktas.nn.vit import NORM_EPS

NAME = "masktas_vit"
# The pooling of an architecture in timm's words: `global_pool` and `fc_norm`.
POOLING = {"cls": ("token", False), "mean": ("avg", False), "mean-norm": ("avg", True)}
DEFAULT_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": None,
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}


def _block_of(
    heads: tuple[int, ...], mlp_dims: tuple[int, ...], head_dim: int
) -> Callable[..., nn.Module]:
    """Return what timm calls for each block, with its `depth`, the index of the block."""

    class SearchedAttention(Attention):
        """Attention of `num_heads * head_dim` channels, independent of the width."""

        def __init__(self, dim: int, **options: Any) -> None:
            super().__init__(dim, attn_head_dim=head_dim, **options)

    def block(*, dim: int, depth: int, **options: Any) -> nn.Module:
        options |= {
            "num_heads": heads[depth],
            # timm takes int(dim * mlp_ratio), which may be one less for an exact quotient
            "mlp_ratio": (mlp_dims[depth] + 0.5) / dim,
            "attn_layer": SearchedAttention,
        }
        made: nn.Module = Block(dim=dim, depth=depth, **options)
        return made

    return block


DEFAULT_HEADS = (3,) * 12


class MasktasViT(VisionTransformer):
    """timm's Vision Transformer with heads and MLP width of each block.

    Args:
        embed_dim: width.
        block_heads: number of attention heads of each block.
        block_mlp_dims: hidden width of the MLP of each block.
        head_dim: channels of an attention head.
        options: of `VisionTransformer`.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 192,
        block_heads: tuple[int, ...] = DEFAULT_HEADS,
        block_mlp_dims: tuple[int, ...] = (768,) * 12,
        head_dim: int = 64,
        **options: Any,
    ) -> None:
        super().__init__(
            embed_dim=embed_dim,
            depth=len(block_heads),
            num_heads=max(block_heads),
            block_fn=cast(Any, _block_of(tuple(block_heads), tuple(block_mlp_dims), head_dim)),
            norm_layer=partial(LayerNorm, eps=NORM_EPS),
            **options,
        )


@register_model
def masktas_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Build a network that masktas has found; its shape is in the `model_args` of its config."""
    if not options.get("pretrained_cfg"):
        options["pretrained_cfg"] = dict(DEFAULT_CFG)
    blocks = len(options.get("block_heads", DEFAULT_HEADS))
    out_indices = options.pop("out_indices", min(3, blocks))  # timm's default is the last three
    return build_model_with_cfg(
        MasktasViT,
        NAME,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        pretrained_strict=True,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **options,
    )
