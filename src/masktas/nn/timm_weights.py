"""The weights of a ViT by the names, orders and shapes of timm's `VisionTransformer`, and back.

Shapes: D width, P side of a patch, C channels of an image, h heads of d channels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from masktas.errors import ArtifactError
from masktas.nn.vit import ViT
from masktas.space import Architecture

RENAMED = {"fc1.": "mlp.fc1.", "fc2.": "mlp.fc2."}  # within a block


def to_timm(network: ViT) -> dict[str, Tensor]:
    """Return the weights of a network as timm stores them."""
    shape = network.architecture
    return {
        _name_in_timm(name, shape): _to_timm(name, tensor.detach().cpu(), shape).contiguous()
        for name, tensor in network.state_dict().items()
    }


def from_timm(
    tensors: Mapping[str, Tensor], architecture: Architecture, *, where: str
) -> dict[str, Tensor]:
    """Return weights that timm stores as those of a `ViT`; unknown names are kept.

    Args:
        tensors: by timm's names.
        architecture: of the network.
        where: the place of the weights, for the message.

    Raises:
        ArtifactError: if a tensor cannot be of this architecture.
    """
    found = {}
    for name, tensor in tensors.items():
        own = _own_name(name, architecture)
        try:
            found[own] = _from_timm(own, tensor, architecture).contiguous()
        except (RuntimeError, IndexError):
            raise ArtifactError(
                f"{where}: the weights are of another architecture: {name} has shape "
                f"{list(tensor.shape)}."
            ) from None
    return found


def _name_in_timm(name: str, shape: Architecture) -> str:
    if name.startswith("patch_embed."):
        return name.replace("patch_embed.", "patch_embed.proj.", 1)
    if name.startswith("norm.") and shape.pool == "mean-norm":
        return f"fc_{name}"
    for ours, its in RENAMED.items():
        name = name.replace(f".{ours}", f".{its}", 1) if name.startswith("blocks.") else name
    return name


def _own_name(name: str, shape: Architecture) -> str:
    if name.startswith("patch_embed.proj."):
        return name.replace("patch_embed.proj.", "patch_embed.", 1)
    if name.startswith("fc_norm.") and shape.pool == "mean-norm":
        return name.removeprefix("fc_")
    for ours, its in RENAMED.items():
        name = name.replace(f".{its}", f".{ours}", 1) if name.startswith("blocks.") else name
    return name


def _to_timm(name: str, tensor: Tensor, shape: Architecture) -> Tensor:
    if name == "patch_embed.weight":  # [D, P*P*C] to a convolution [D, C, P, P]
        channels = shape.in_channels
        return tensor.view(len(tensor), shape.patch_size, -1, channels).permute(0, 3, 1, 2)
    if ".attn.qkv." in name:  # rows [head][q, k, v][channel] to [q, k, v][head][channel]
        rows = tensor.view(-1, 3, shape.head_dim, *tensor.shape[1:])
        return rows.transpose(0, 1).flatten(0, 2)
    return tensor


def _from_timm(name: str, tensor: Tensor, shape: Architecture) -> Tensor:
    if name == "patch_embed.weight":
        return tensor.permute(0, 2, 3, 1).flatten(1)
    if ".attn.qkv." in name:
        rows = tensor.reshape(3, -1, shape.head_dim, *tensor.shape[1:])
        return rows.transpose(0, 1).flatten(0, 2)
    return tensor
