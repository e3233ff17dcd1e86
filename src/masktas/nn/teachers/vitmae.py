"""Folders of a Hugging Face ViTMAE: their names for the tensors of a masked autoencoder.

Saved by whatever version of transformers, they are renamed to those of the public MAE format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masktas.errors import ArtifactError
from masktas.nn.mae import DECODER_HEAD_DIM, Decoder
from masktas.nn.teachers.files import read_config, read_tensors
from masktas.nn.teachers.mae_format import IMAGENET_MEAN, IMAGENET_STD, convert
from masktas.nn.vit import NORM_EPS, ViT

MODEL_TYPE = "vit_mae"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
RENAMED = (
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^layernorm\.", "norm."),
    (r"^decoder\.mask_token", "mask_token"),
    (r"^decoder\.decoder_(layers|encoder\.layer)\.", "decoder_blocks."),
    (r"^decoder\.(decoder_)", r"\1"),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def read_vitmae(folder: Path, *, partial: bool) -> tuple[ViT, Decoder | None, dict[str, Any], Path]:
    """Read a folder with `config.json` and weights.

    Returns:
        Encoder, decoder if there is one, the configuration and the file of weights.

    Raises:
        ArtifactError: if it cannot be converted, saying what is in the way.
    """
    config = read_config(folder / "config.json")
    _require_ours(config, folder)
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if path is None:
        raise ArtifactError(f"{folder}: no weights in it (expected {' or '.join(WEIGHT_FILES)}).")
    encoder, decoder = convert(
        official_names(read_tensors(path)),
        where=path,
        num_heads=config.get("num_attention_heads", 12),
        partial=partial,
    )
    return encoder, decoder, config, path


def _require_ours(config: dict[str, Any], folder: Path) -> None:
    """Raise ArtifactError for options that `ViT` and `Decoder` do not support."""
    decoder_dim = config.get("decoder_hidden_size", 512)
    same = {
        "hidden_act": (config.get("hidden_act", "gelu"), "gelu"),
        "qkv_bias": (config.get("qkv_bias", True), True),
        "decoder_num_attention_heads": (
            config.get("decoder_num_attention_heads", 16),
            decoder_dim // DECODER_HEAD_DIM,
        ),
    }
    for key, (value, wanted) in same.items():
        if value != wanted:
            raise ArtifactError(f"{folder}: {key} is {value!r}, but only {wanted!r} is converted.")
    if config.get("layer_norm_eps", NORM_EPS) > NORM_EPS:
        raise ArtifactError(
            f"{folder}: layer_norm_eps is {config['layer_norm_eps']}, above {NORM_EPS}."
        )


def official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the public MAE format, joining query, key and value."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(part in renamed for part in parts):
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[name.replace(".attn.q.", ".attn.qkv.")] = joined
    return renamed


def normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of its images: its preprocessor's, else ImageNet's."""
    config = read_config(folder / "preprocessor_config.json")
    mean, std = config.get("image_mean", IMAGENET_MEAN), config.get("image_std", IMAGENET_STD)
    return tuple(mean), tuple(std)
