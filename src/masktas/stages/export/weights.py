"""`model.safetensors`: the weights by timm's names, which two forms read."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from masktas.files import write_atomic
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.stages.export.form import Subject

SAFETENSORS = "model.safetensors"
RENAMED = {"fc1.": "mlp.fc1.", "fc2.": "mlp.fc2."}  # within a block


def write_weights(subject: Subject, folder: Path) -> None:
    """Write the weights, unless a form before has."""
    path = folder / SAFETENSORS
    if not path.exists():
        tensors = timm_weights(subject.network)
        write_atomic(path, lambda to: save_file(tensors, to, metadata={"format": "pt"}))


def timm_weights(network: ViT) -> dict[str, Tensor]:
    """Return the weights with the names, orders and shapes of timm's `VisionTransformer`."""
    shape = network.architecture
    found = {}
    for name, tensor in network.state_dict().items():
        renamed, moved = _as_in_timm(name, tensor, shape)
        found[renamed] = moved.detach().cpu().contiguous()
    return found


def _as_in_timm(name: str, tensor: Tensor, shape: Architecture) -> tuple[str, Tensor]:
    if name == "patch_embed.weight":  # [D, P*P*C] to a convolution [D, C, P, P]
        side = shape.patch_size
        return "patch_embed.proj.weight", tensor.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)
    if name.startswith("patch_embed."):
        return name.replace("patch_embed.", "patch_embed.proj."), tensor
    if name.startswith("norm.") and shape.pool == "mean-norm":
        return f"fc_{name}", tensor
    if not name.startswith("blocks."):
        return name, tensor
    if ".attn.qkv." in name:  # rows [head][q, k, v][channel] to [q, k, v][head][channel]
        rows = tensor.unflatten(0, (-1, 3, shape.head_dim))
        return name, rows.transpose(0, 1).flatten(0, 2)
    _, block, rest = name.split(".", 2)
    for ours, its in RENAMED.items():
        if rest.startswith(ours):
            rest = rest.replace(ours, its, 1)
    return f"blocks.{block}.{rest}", tensor
