"""Read what earlier stages left: the teacher, the supernet, a searched architecture."""

from __future__ import annotations

from pathlib import Path

from masktas.artifacts import Run, write_json
from masktas.errors import ArtifactError
from masktas.nn.distill import EncoderTeacher, StudentShape
from masktas.nn.mae import MaskedAutoencoder
from masktas.nn.supernet import Supernet
from masktas.space import Architecture, SearchSpace
from masktas.train import checkpoint
from masktas.train.networks import ARCHITECTURE, WEIGHTS, load_network

DECODER = "decoder.safetensors"
SPACE = "space.json"


def load_teacher(run: Run) -> EncoderTeacher:
    """Return the run's teacher, frozen."""
    run.teacher.manifest()
    return EncoderTeacher(load_network(run.teacher.folder))


def load_masked_autoencoder(run: Run) -> MaskedAutoencoder:
    """Return the run's teacher with its decoder, to show what it reconstructs."""
    settings = run.teacher.manifest()["settings"]["settings"]
    encoder = load_network(run.teacher.folder)
    model = MaskedAutoencoder(
        encoder.architecture,
        decoder_dim=settings["decoder_dim"],
        decoder_depth=settings["decoder_depth"],
    )
    model.encoder = encoder
    path = run.teacher.folder / DECODER
    checkpoint.load_strict(model.decoder, checkpoint.load(path)[0], where=str(path))
    return model.eval()


def save_supernet(folder: Path, supernet: Supernet) -> None:
    """Write the store of weights and the space it is for."""
    checkpoint.save(folder / WEIGHTS, supernet.student.state_dict(), {})
    write_json(folder / SPACE, supernet.space.to_dict())


def load_supernet(run: Run) -> Supernet:
    """Return the run's supernet."""
    settings = run.supernet.manifest()["settings"]["settings"]
    folder = run.supernet.folder
    shape = StudentShape(
        decoder_dim=settings["decoder_dim"],
        decoder_depth=settings["decoder_depth"],
        teacher_dim=Architecture.load(run.teacher.folder / ARCHITECTURE).embed_dim,
    )
    supernet = Supernet(SearchSpace.load(folder / SPACE), shape)
    path = folder / WEIGHTS
    checkpoint.load_strict(supernet.student, checkpoint.load(path)[0], where=str(path))
    return supernet


def require_same_patches(teacher: Architecture, space: SearchSpace) -> None:
    """Raise ArtifactError unless teacher and space cut images into the same patches."""
    mine = (space.image_size, space.patch_size, space.in_channels)
    its = (teacher.image_size, teacher.patch_size, teacher.in_channels)
    if mine != its:
        raise ArtifactError(
            f"Space {space.name} sees {_patches(*mine)}, but the teacher {_patches(*its)}: train "
            f"a teacher with --image-size {mine[0][0]} --patch-size {mine[1]} --in-channels "
            f"{mine[2]}, or choose another space."
        )


def _patches(image_size: tuple[int, int], patch_size: int, in_channels: int) -> str:
    height, width = image_size
    return f"{height} x {width} pixels of {in_channels} channels in patches of {patch_size}"
