"""Masked autoencoders in the public MAE format: names and layouts of tensors, converted to masktas.

A file holds the state dict of an encoder, with or without its decoder; every shape is read off
its tensors. Rows of `qkv` are ordered [q, k, v][head][channel] there and [head][q, k, v][channel]
here; patches are embedded by a convolution there and by a matrix over [P, P, C] here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from masktas.errors import ArtifactError, ConfigError
from masktas.nn.mae import DECODER_HEAD_DIM, Decoder
from masktas.nn.teachers.files import require_complete
from masktas.nn.vit import ViT
from masktas.space import Architecture

# of the released networks; files do not store the number of heads
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RELEASED = ("mae_pretrain_", "mae_visualize_", "mae_finetuned_")
RELEASED_LICENCE = "CC-BY-NC 4.0"
PLAIN = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its name in the public format, its name in masktas, and the conversion."""

    public: str
    own: str
    turn: Callable[[Tensor], Tensor]


def convert(
    tensors: Mapping[str, Tensor], *, where: object, num_heads: int | None, partial: bool
) -> tuple[ViT, Decoder | None]:
    """Build `ViT` and `Decoder` from tensors in the public format.

    Args:
        tensors: the state dict.
        where: names the file in messages.
        num_heads: of the encoder; None to derive it from the width.
        partial: take what fits; what is not filled keeps starting values.

    Raises:
        ArtifactError: if it is of another format, or leaves a tensor unfilled or unused.
    """
    shape = read_shape(tensors, where=where, num_heads=num_heads)
    encoder = ViT(shape)
    encoder.init_weights(torch.Generator().manual_seed(0))
    entries = list(_encoder_entries(shape))
    decoder = None
    if "decoder_embed.weight" in tensors:
        decoder = _empty_decoder(tensors, shape, where)
        decoder.init_weights(torch.Generator().manual_seed(0))
    of_decoder = list(_decoder_entries(decoder)) if decoder is not None else []
    known = {entry.public for entry in entries + of_decoder}
    require_complete(known - tensors.keys(), tensors.keys() - known, where=where, partial=partial)
    _fill(encoder, entries, tensors, where)
    if decoder is not None:
        _fill(decoder, of_decoder, tensors, where)
    return encoder, decoder


def read_shape(
    tensors: Mapping[str, Tensor], *, where: object, num_heads: int | None
) -> Architecture:
    """Derive the encoder's architecture from its tensors."""
    for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"):
        if name not in tensors:
            raise ArtifactError(
                f"{where}: not in the public MAE format, {name} is missing; for another network "
                "give timm:NAME@FILE, with the name that timm has for it."
            )
    patches, positions = tensors["patch_embed.proj.weight"], tensors["pos_embed"]
    if patches.ndim != 4 or positions.ndim != 3 or tensors["blocks.0.mlp.fc1.weight"].ndim != 2:
        raise ArtifactError(f"{where}: not in the public MAE format, its tensors are not matrices.")
    width, channels, patch_size, other = patches.shape
    side = math.isqrt(positions.shape[1] - 1)
    if patch_size != other or side * side != positions.shape[1] - 1 or not side:
        raise ArtifactError(
            f"{where}: patches of {patch_size} x {other} pixels and {positions.shape[1]} positions:"
            " only square patches in a square grid with a class token are read."
        )
    depth = 0
    while f"blocks.{depth}.mlp.fc1.weight" in tensors:
        depth += 1
    heads = num_heads or HEADS.get(width)
    if heads is None:
        raise ConfigError(
            f"{where}: the number of attention heads cannot be derived from the width {width}: "
            "give --teacher-heads (--num-heads for --init)."
        )
    if width % heads:
        raise ConfigError(f"{where}: a width of {width} does not divide into {heads} heads.")
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    return Architecture(
        embed_dim=width,
        num_heads=(heads,) * depth,
        mlp_ratio=(_ratio(hidden, width),) * depth,
        head_dim=width // heads,
        image_size=(side * patch_size, side * patch_size),
        patch_size=patch_size,
        in_channels=channels,
        num_classes=0,
    )


def _ratio(hidden: int, width: int) -> float:
    """Return the MLP ratio that gives exactly this hidden width."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _empty_decoder(tensors: Mapping[str, Tensor], shape: Architecture, where: object) -> Decoder:
    dim = tensors["decoder_embed.weight"].shape[0]
    depth = 0
    while f"decoder_blocks.{depth}.norm1.weight" in tensors:
        depth += 1
    if dim % DECODER_HEAD_DIM or not depth:
        raise ArtifactError(
            f"{where}: its decoder is {dim} wide with {depth} blocks, but only decoders with heads "
            f"{DECODER_HEAD_DIM} wide are read: keep the encoder's tensors alone in the file."
        )
    class_position = tensors.get("decoder_pos_embed", torch.zeros(1, 1, 1))[:, :1]
    if class_position.any():
        raise ArtifactError(
            f"{where}: decoder_pos_embed has a position for the class token that is not zero, as "
            "no released decoder has: keep the encoder's tensors alone in the file."
        )
    return Decoder(shape, decoder_dim=dim, decoder_depth=depth)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _encoder_entries(shape: Architecture) -> Iterator[Entry]:
    yield Entry("cls_token", "cls_token", _same)
    yield Entry("pos_embed", "pos_embed", _same)
    # [D, C, P, P] -> [D, P * P * C]
    yield Entry(
        "patch_embed.proj.weight", "patch_embed.weight", lambda x: x.permute(0, 2, 3, 1).flatten(1)
    )
    yield Entry("patch_embed.proj.bias", "patch_embed.bias", _same)
    for block, heads in enumerate(shape.num_heads):
        yield from _block_entries(f"blocks.{block}", f"blocks.{block}", heads)
    yield from _pair("norm", "norm")


def _decoder_entries(decoder: Decoder) -> Iterator[Entry]:
    yield Entry("mask_token", "mask_token", _same)
    yield Entry("decoder_pos_embed", "positions", lambda x: x[:, 1:])
    yield from _pair("decoder_embed", "embed")
    for block in range(len(decoder.blocks)):
        public, own = f"decoder_blocks.{block}", f"blocks.{block}"
        yield from _block_entries(public, own, decoder.dim // DECODER_HEAD_DIM)
    yield from _pair("decoder_norm", "norm")
    yield from _pair("decoder_pred", "pred")


def _block_entries(public: str, own: str, heads: int) -> Iterator[Entry]:
    for kind in ("weight", "bias"):
        name = f"attn.qkv.{kind}"
        yield Entry(f"{public}.{name}", f"{own}.{name}", lambda x: head_major(x, heads))
    for name in PLAIN:
        yield from _pair(f"{public}.{name}", f"{own}.{name.removeprefix('mlp.')}")


def _pair(public: str, own: str) -> Iterator[Entry]:
    for kind in ("weight", "bias"):
        yield Entry(f"{public}.{kind}", f"{own}.{kind}", _same)


def head_major(rows: Tensor, heads: int) -> Tensor:
    """Reorder rows from [q, k, v][head][channel] to [head][q, k, v][channel]."""
    if rows.shape[0] % (3 * heads):
        return rows  # of another network; its shape is refused later by name
    split: Tensor = rows.unflatten(0, (3, heads, -1))
    return torch.flatten(split.transpose(0, 1), 0, 2)


def _fill(
    network: ViT | Decoder, entries: list[Entry], tensors: Mapping[str, Tensor], where: object
) -> None:
    state = network.state_dict()
    for entry in entries:
        if entry.public not in tensors:
            continue
        found, wanted = tensors[entry.public], state[entry.own]
        turned = entry.turn(found) if found.ndim else found
        if turned.shape != wanted.shape:
            raise ArtifactError(
                f"{where}: {entry.public} has shape {list(found.shape)}, which does not fit "
                "the other tensors."
            )
        wanted.copy_(turned)


def licence_of(name: str) -> str | None:
    """Return the licence of a file of the public release, by its name."""
    return RELEASED_LICENCE if name.startswith(RELEASED) else None
