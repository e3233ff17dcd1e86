"""Equal networks of ours and of peers: the same weights, the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from timm import create_model
from torch import Tensor, nn

import masktas.timm
from masktas.nn.mae import MaskedAutoencoder
from masktas.nn.teachers import mae_format
from masktas.nn.vit import NORM_EPS
from masktas.space import Architecture, SearchSpace

IN_AUTOFORMER = {"norm1": "attn_layer_norm", "norm2": "ffn_layer_norm"}
DECODER_HEAD_DIM = 32


def timm_network(shape: Architecture, drop_path: float = 0.0) -> nn.Module:
    """Build the network of an architecture as timm has it."""
    pool, fc_norm = masktas.timm.POOLING[shape.pool]
    network: nn.Module = create_model(
        masktas.timm.NAME, img_size=shape.image_size, patch_size=shape.patch_size,
        in_chans=shape.in_channels, num_classes=shape.num_classes, embed_dim=shape.embed_dim,
        block_heads=shape.num_heads, block_mlp_dims=shape.mlp_dim, head_dim=shape.head_dim,
        global_pool=pool, fc_norm=fc_norm, drop_path_rate=drop_path,
    )  # fmt: skip
    return network


def autoformer_supernet(
    peer: SimpleNamespace, space: SearchSpace, num_classes: int, *, relative: bool
) -> Any:
    """Build AutoFormer's supernet of a space, on the mean of the patches as in its recipe.

    Args:
        peer: its code, see `clones.autoformer`.
        space: of square images.
        num_classes: of the head.
        relative: with its relative positions.
    """
    largest = space.largest
    heads = max(*space.num_heads, -(-largest.embed_dim // space.head_dim))
    network = peer.Vision_TransformerSuper(
        img_size=largest.image_size[0], patch_size=largest.patch_size,
        in_chans=largest.in_channels, num_classes=num_classes, embed_dim=heads * space.head_dim,
        depth=max(space.depth), num_heads=heads, mlp_ratio=max(space.mlp_ratio),
        qkv_bias=True, gp=True, change_qkv=True, relative_position=relative,
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = NORM_EPS
    return network


def config_of(one: Architecture) -> dict[str, Any]:
    """Return an architecture as AutoFormer writes it."""
    return {
        "layer_num": one.depth,
        "embed_dim": [one.embed_dim] * one.depth,
        "num_heads": list(one.num_heads),
        "mlp_ratio": list(one.mlp_ratio),
    }


@torch.no_grad()
def fill_autoformer(network: Any, store: Mapping[str, Tensor], largest: Architecture) -> None:
    """Copy the weights of our supernet's encoder into AutoFormer's.

    Rows of q/k/v are ordered [head][q, k, v][channel] here and [head][channel][q, k, v] there. A
    patch is embedded by a convolution there.
    """
    theirs = dict(network.named_parameters())
    for name, tensor in store.items():
        if name == "patch_embed.weight":
            side, channels = largest.patch_size, largest.in_channels
            tensor = tensor.view(len(tensor), side, side, channels).permute(0, 3, 1, 2)
        elif ".attn.qkv." in name:
            rows = tensor.view(-1, 3, largest.head_dim, *tensor.shape[1:])
            tensor = rows.transpose(1, 2).flatten(0, 2)
        for ours, its in IN_AUTOFORMER.items():
            name = name.replace(f".{ours}.", f".{its}.")
        name = name.replace("patch_embed.", "patch_embed_super.proj.")
        whole = theirs[name]
        whole[tuple(slice(size) for size in tensor.shape)] = tensor


def mae_network(peer: Any, shape: Architecture, *, decoder_dim: int, decoder_depth: int) -> Any:
    """Build MAE's autoencoder of an architecture, with our width of its decoder's heads."""
    network = peer(
        img_size=shape.image_size[0], patch_size=shape.patch_size, in_chans=shape.in_channels,
        embed_dim=shape.embed_dim, depth=shape.depth, num_heads=shape.num_heads[0],
        decoder_embed_dim=decoder_dim, decoder_depth=decoder_depth,
        decoder_num_heads=decoder_dim // DECODER_HEAD_DIM, mlp_ratio=shape.mlp_ratio[0],
        norm_pix_loss=True,
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = NORM_EPS
    return network


def ours_of_mae(network: Any, num_heads: int) -> MaskedAutoencoder:
    """Return our autoencoder with the weights of MAE's."""
    encoder, decoder = mae_format.convert(
        network.state_dict(), where="the peer", num_heads=num_heads, partial=False
    )
    assert decoder is not None
    return MaskedAutoencoder.joined(encoder, decoder)


def apart(one: Tensor | Sequence[float], other: Tensor | Sequence[float]) -> float:
    """Return the largest difference, relative to the largest number."""
    first, second = (torch.as_tensor(values).double() for values in (one, other))
    return float((first - second).abs().max() / first.abs().max())
