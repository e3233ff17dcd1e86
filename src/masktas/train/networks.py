"""A network on disk: architecture, weights and input; nothing is pickled."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from masktas.artifacts import ARCHITECTURE, INPUT, Run
from masktas.errors import ArtifactError, SpaceError
from masktas.files import write_json
from masktas.nn.timm_weights import from_timm
from masktas.nn.vit import ViT
from masktas.space import Architecture, macs, params
from masktas.train import checkpoint
from masktas.train.input import NetworkInput

WEIGHTS = "weights.safetensors"
SAFETENSORS = "model.safetensors"  # of an export, by timm's names
V = TypeVar("V", bound=ViT)


def save_network(
    folder: Path,
    network: ViT,
    *,
    seen: NetworkInput | None = None,
    rating: float | None = None,
) -> None:
    """Write a network's architecture with what it costs, its weights and its input.

    Args:
        folder: where the files are written.
        network: the network.
        seen: how images become its input; None for a network that is only measured.
        rating: of the network, where known.
    """
    checkpoint.save(folder / WEIGHTS, network.state_dict(), {})
    save_architecture(folder / ARCHITECTURE, network.architecture, rating=rating)
    if seen is None:
        (folder / INPUT).unlink(missing_ok=True)  # of another network that was there
    else:
        seen.save(folder)


def save_architecture(
    path: Path, architecture: Architecture, *, rating: float | None = None
) -> None:
    """Write an architecture.json with `params`, `macs` and, where known, `rating`."""
    content = architecture.to_dict() | {"params": params(architecture), "macs": macs(architecture)}
    write_json(path, content if rating is None else content | {"rating": rating})


def network_folder(path: str | Path) -> Path:
    """Return the folder of a network: itself, that of its architecture.json, or a run's main one.

    Args:
        path: a folder that a stage or an export wrote, the architecture.json in it, or a run
            folder, which stands for its `finetune/main`, or else its `segment/main`.

    Raises:
        ArtifactError: if there is none.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and not (path / ARCHITECTURE).exists():
        for main in (Run(path).finetune().folder, Run(path).segmented().folder):
            if (main / ARCHITECTURE).exists():
                return main
    if not (folder / ARCHITECTURE).exists() or (path != folder and path.name != ARCHITECTURE):
        raise ArtifactError(
            f"{path}: no {ARCHITECTURE} there. Give a folder that a stage wrote, such as "
            "RUN/finetune/NAME, a RUN with a finetune/main or segment/main, or an export with one "
            "of the forms torch, timm and hf."
        )
    return folder


def load_network(path: str | Path) -> ViT:
    """Build the network of a folder, see `network_folder`, and fill it strictly.

    Raises:
        ArtifactError: if a file is missing or damaged, or the weights are of another architecture.
    """
    folder = network_folder(path)
    return filled(ViT(read_shape(folder)), folder)


def read_shape(folder: Path) -> Architecture:
    """Read the architecture.json of a network's folder.

    Raises:
        ArtifactError: if it is damaged.
    """
    try:
        return Architecture.load(folder / ARCHITECTURE)
    except SpaceError as error:
        raise ArtifactError(f"{error}") from None


def filled(network: V, folder: Path) -> V:
    """Load the weights of a folder into a network of its architecture, strictly, for evaluation."""
    path = weights_file(folder)
    tensors, _ = checkpoint.load(path, checked=path.name == WEIGHTS)
    if path.name == SAFETENSORS:
        tensors = from_timm(tensors, network.architecture, where=str(path))
    checkpoint.load_strict(network, tensors, where=str(path))
    network.eval()
    return network


def weights_file(folder: Path) -> Path:
    """Return the file with the weights of a network's folder: a stage's, or an export's."""
    exported = folder / SAFETENSORS
    is_exported = exported.exists() and not (folder / WEIGHTS).exists()
    return exported if is_exported else folder / WEIGHTS
