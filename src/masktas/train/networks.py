"""A network on disk: `architecture.json` beside `weights.safetensors`, and nothing pickled."""

from __future__ import annotations

from pathlib import Path

from masktas.artifacts import ARCHITECTURE, write_json
from masktas.errors import ArtifactError, SpaceError
from masktas.nn.vit import ViT
from masktas.space import Architecture, macs, params
from masktas.train import checkpoint

WEIGHTS = "weights.safetensors"


def save_network(folder: Path, network: ViT, *, rating: float | None = None) -> None:
    """Write a network's architecture, with what it costs, and its weights."""
    checkpoint.save(folder / WEIGHTS, network.state_dict(), {})
    save_architecture(folder / ARCHITECTURE, network.architecture, rating=rating)


def save_architecture(
    path: Path, architecture: Architecture, *, rating: float | None = None
) -> None:
    """Write an architecture.json with `params`, `macs` and, where known, `rating`."""
    content = architecture.to_dict() | {"params": params(architecture), "macs": macs(architecture)}
    write_json(path, content if rating is None else content | {"rating": rating})


def load_network(path: str | Path) -> ViT:
    """Build the network of a folder, or of the architecture.json in it, and fill it strictly.

    Raises:
        ArtifactError: if a file is missing or damaged, or the weights are of another architecture.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not (folder / ARCHITECTURE).exists():
        raise ArtifactError(
            f"{path}: no {ARCHITECTURE} there. Give a folder that a stage wrote, such as "
            "RUN/finetune/NAME."
        )
    try:
        network = ViT(Architecture.load(folder / ARCHITECTURE))
    except SpaceError as error:
        raise ArtifactError(f"{error}") from None
    tensors, _ = checkpoint.load(folder / WEIGHTS)
    checkpoint.load_strict(network, tensors, where=str(folder / WEIGHTS))
    return network.eval()
