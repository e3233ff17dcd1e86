"""A folder in timm's layout: `config.json` and `model.safetensors`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm

from masktas.files import write_json
from masktas.stages.export.form import Form, Run, Subject, no_segmenter
from masktas.stages.export.weights import FILES, write_weights
from masktas.timm import NAME, POOLING

CONFIG = "config.json"


def write(subject: Subject, folder: Path) -> None:
    """Write configuration and weights."""
    write_weights(subject, folder)
    write_json(folder / CONFIG, config(subject))


def config(subject: Subject) -> dict[str, Any]:
    """Return the content of `config.json`.

    `model_args` has no `num_classes`: timm does not need it there, and transformers would pass it
    twice.
    """
    shape, seen = subject.architecture, subject.seen
    pool, fc_norm = POOLING[shape.pool]
    input_size = [shape.in_channels, *shape.image_size]
    labels = {} if seen.classes is None else {"label_names": list(seen.classes)}
    return {
        "architecture": NAME,
        "num_classes": shape.num_classes or 0,
        "num_features": shape.embed_dim,
        "global_pool": pool,
        **labels,
        "model_args": {
            "img_size": list(shape.image_size),
            "patch_size": shape.patch_size,
            "in_chans": shape.in_channels,
            "embed_dim": shape.embed_dim,
            "block_heads": list(shape.num_heads),
            "block_mlp_dims": list(shape.mlp_dim),
            "head_dim": shape.head_dim,
            "global_pool": pool,
            "fc_norm": fc_norm,
        },
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": input_size,
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": crop_share(shape.image_size[0], seen.stored_size[0]),
            "crop_mode": "center",
            "mean": list(seen.mean),
            "std": list(seen.std),
            "num_classes": shape.num_classes or 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def crop_share(side: int, stored: int) -> float:
    """Return timm's `crop_pct`, for which it scales images to exactly `stored` pixels."""
    share = side / stored
    while math.floor(side / share) < stored:
        share = math.nextafter(share, 0)
    return share


def open_(folder: Path) -> Run:
    """Open the folder as a user of timm does."""
    made: Run = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return made


require = no_segmenter("timm", "timm has no place for its decoder")
FORM = Form("timm", (CONFIG, *FILES), True, require, write, open_)
