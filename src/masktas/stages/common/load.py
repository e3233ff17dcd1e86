"""Load what earlier stages wrote: teacher, supernet, and weights with how they saw images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from masktas.artifacts import ARCHITECTURE, SPACE, TEACHER, Run
from masktas.config import DataSettings, resolve
from masktas.data.store.image_store import ImageStore
from masktas.errors import ArtifactError, ConfigError
from masktas.files import read_json, write_json
from masktas.formats import format_size
from masktas.nn.mae import Decoder, MaskedAutoencoder
from masktas.nn.student import StudentShape
from masktas.nn.supernet import SharedWeights, Supernet
from masktas.nn.supervised import SupervisedSupernet
from masktas.nn.teachers.function import Ask, FunctionTeacher
from masktas.nn.teachers.teacher import (
    EncoderTeacher,
    InputAdapter,
    InputSpec,
    Teacher,
    adapter_between,
    by_units,
)
from masktas.nn.units import Units, units_of
from masktas.nn.vit import ViT
from masktas.space import Architecture, SearchSpace
from masktas.space.tiling import MIN_UNITS, common_unit, patch_in
from masktas.stages.common.images import ImageInput
from masktas.train import checkpoint
from masktas.train.input import NetworkInput
from masktas.train.networks import WEIGHTS, load_network, weights_file

DECODER = "decoder.safetensors"
W = TypeVar("W", bound=SharedWeights[Any])


@dataclass(frozen=True, slots=True)
class ReconstructingTeacher:
    """A teacher with its decoder, to draw what it reconstructs.

    Attributes:
        model: encoder and decoder.
        adapter: from the student's images to the teacher's; None where they are the same.
        sight: the teacher's images.
        normalised: whether it predicts patches normalised by their own mean and variance.
    """

    model: MaskedAutoencoder
    adapter: InputAdapter | None
    sight: InputSpec
    normalised: bool


def adopted_facts(run: Run) -> dict[str, Any] | None:
    """Return what `teacher.json` says of an adopted teacher; None if it was pre-trained here."""
    path = run.teacher.folder / TEACHER
    if not path.exists():
        return None
    facts = read_json(path)
    if not isinstance(facts, dict) or not {"kind", "mean", "std", "embed_dim"} <= facts.keys():
        raise ArtifactError(f"{path}: damaged. `masktas supernet --teacher ... --overwrite` again.")
    return facts


def teacher_file(run: Run) -> Path:
    """Return the file whose hash identifies the run's teacher."""
    weights = run.teacher.folder / WEIGHTS
    function = not weights.exists() and (run.teacher.folder / TEACHER).exists()
    return run.teacher.folder / TEACHER if function else weights


def units_for(run: Run, space: SearchSpace) -> Units:
    """Return the units that the patches of a space and of the run's teacher tile (SPEC 6.1).

    A supernet that was trained with labels has no teacher: its units are those of the space.

    Raises:
        ArtifactError: if there are none.
    """
    if run.supernet.finished and shared_classes(run) is not None:
        return units_of(space.image_size, space.unit)
    run.teacher.manifest()
    facts = adopted_facts(run)
    if facts is not None and facts["kind"] == "function":
        return units_of(space.image_size, space.unit)
    return units_with(space, teacher_input_spec(run).grid, str(run.teacher.folder))


def units_with(space: SearchSpace, grid: tuple[int, int], teacher: str) -> Units:
    """Return the units that the patches of a space and those of a teacher's grid tile.

    Raises:
        ArtifactError: if there are none; it names the teacher.
    """
    patch_size = patch_in(space.image_size, grid)
    sizes = (*space.patch_size, patch_size or 0)
    unit = common_unit(space.image_size, sizes) if patch_size else None
    if unit is None:
        raise ArtifactError(
            f"{teacher} sees a grid of {grid[0]} x {grid[1]} patches, and the students "
            f"{_pixels(space.image_size)} pixels in patches of {_listed(space.patch_size)}: these "
            f"do not tile the same {MIN_UNITS} or more squares. Choose another space, or another "
            "teacher (with --overwrite)."
        )
    return units_of(space.image_size, unit)


def student_input(space: SearchSpace, units: Units, store: ImageStore) -> InputSpec:
    """Return the images that students see, in units."""
    mean, std = tuple(store.mean), tuple(store.std)
    return InputSpec(space.image_size, units.size, space.in_channels, mean, std)


def load_teacher(
    run: Run, student: InputSpec, device: torch.device, ask: Ask | None = None
) -> Teacher:
    """Return the run's teacher, frozen, for the images of a student.

    Args:
        run: the run.
        student: the student's images, in units (`student_input`).
        device: where the teacher runs.
        ask: the function, if the teacher is one.

    Raises:
        ArtifactError: if the teacher is missing, damaged or does not fit the student.
        ConfigError: if a function is missing, or given where the teacher is none.
    """
    run.teacher.manifest()
    facts = adopted_facts(run)
    if (facts is not None and facts["kind"] == "function") != (ask is not None):
        _refuse_function(run, facts, ask)
    if ask is not None:
        return FunctionTeacher(ask, student, device)
    sight = teacher_input_spec(run)
    patch_size = patch_in(student.image_size, sight.grid)
    if patch_size is None or student.patch_size % patch_size:
        raise ArtifactError(
            f"{run.teacher.folder} sees a grid of {sight.grid[0]} x {sight.grid[1]} patches and "
            f"the student one of {student.grid[0]} x {student.grid[1]}: choose another space, or "
            "adopt the teacher again with --teacher and --overwrite."
        )
    adapter = adapter_between(student, sight)
    if facts is not None and facts["kind"] == "timm":
        from masktas.nn.teachers.timm_vit import load_timm

        path = run.teacher.folder / WEIGHTS
        frozen: Teacher = load_timm(facts, checkpoint.load(path)[0], where=path, adapter=adapter)
    else:
        frozen = EncoderTeacher(load_network(run.teacher.folder), adapter)
    units = units_of(student.image_size, student.patch_size)
    return by_units(frozen.to(device), units, sight.grid)


def _refuse_function(run: Run, facts: dict[str, Any] | None, ask: Ask | None) -> None:
    if ask is not None:
        raise ConfigError(
            f"{run.teacher.folder} is not a Python function: leave out teacher=, or choose "
            "another out."
        )
    assert facts is not None
    raise ConfigError(
        f"{run.teacher.folder} is the Python function {facts['source']}: from Python, give it "
        "again as teacher= to masktas.supernet, masktas.search or masktas.run."
    )


def teacher_input_spec(run: Run) -> InputSpec:
    """Return the images that the run's teacher was trained on."""
    facts = adopted_facts(run)
    if facts is None:
        images = run.teacher.manifest()["images"]
        one = Architecture.load(run.teacher.folder / ARCHITECTURE)
        return InputSpec.of(one, images["mean"], images["std"])
    height, width = facts["image_size"]
    return InputSpec(
        (height, width),
        facts["patch_size"],
        facts["in_channels"],
        tuple(facts["mean"]),
        tuple(facts["std"]),
    )


def load_decoder(folder: Path, encoder: Architecture) -> Decoder | None:
    """Return the decoder beside a teacher, shaped as its tensors; None if there is none."""
    path = folder / DECODER
    if not path.exists():
        return None
    tensors, _ = checkpoint.load(path)
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    if "mask_token" not in tensors:
        raise ArtifactError(f"{path}: not a decoder, mask_token is missing.")
    decoder = Decoder(
        encoder, decoder_dim=tensors["mask_token"].shape[-1], decoder_depth=len(blocks)
    )
    checkpoint.load_strict(decoder, tensors, where=str(path))
    return decoder


def load_reconstruction(
    run: Run, student: InputSpec, device: torch.device
) -> ReconstructingTeacher | None:
    """Return the run's teacher with its decoder; None if it has none."""
    facts = adopted_facts(run)
    if facts is not None and facts["kind"] != "vit":
        return None
    encoder = load_network(run.teacher.folder)
    decoder = load_decoder(run.teacher.folder, encoder.architecture)
    if decoder is None:
        return None
    sight = teacher_input_spec(run)
    adapter = adapter_between(student, sight)
    return ReconstructingTeacher(
        MaskedAutoencoder.joined(encoder, decoder).eval().to(device),
        None if adapter is None else adapter.to(device),
        sight,
        facts is None or facts["normalised_pixels"],
    )


def save_supernet(folder: Path, supernet: SharedWeights[Any]) -> None:
    """Write the weights and the space of a supernet."""
    checkpoint.save(folder / WEIGHTS, supernet.student.state_dict(), {})
    write_json(folder / SPACE, supernet.space.to_dict())


def shared_classes(run: Run) -> list[str] | None:
    """Return the classes that the run's supernet was trained to tell apart; None without labels."""
    classes: list[str] | None = run.supernet.manifest().get("classes")
    return classes


def require_distilled(run: Run, what: str) -> None:
    """Raise ConfigError if the run's supernet was trained with labels and so has no teacher."""
    if shared_classes(run) is not None:
        raise ConfigError(
            f"{run.supernet.folder} was trained with labels (--supervised): it has no teacher, "
            f"which {what} needs. Give a run whose supernet was distilled."
        )


def load_shared(run: Run, space: SearchSpace | None = None) -> Supernet | SupervisedSupernet:
    """Return the run's supernet, distilled or trained with labels; see `load_supernet`."""
    classes = shared_classes(run)
    if classes is None:
        return load_supernet(run, space)
    space = space or SearchSpace.load(run.supernet.folder / SPACE)
    return _filled(SupervisedSupernet(space, len(classes)), run)


def wanted_architecture(run: Run, architecture: str | Path | None) -> Path:
    """Return the file of the architecture to train with labels.

    Without one that is named, it is that of `refine/main`, or else of `search/main`.

    Raises:
        ArtifactError: if it does not exist.
    """
    if architecture is None:
        refined, searched = run.refine(), run.search()
        if not refined.finished:
            searched.manifest()
        return (refined if refined.finished else searched).folder / ARCHITECTURE
    path = Path(architecture)
    if not path.exists():
        raise ArtifactError(
            f"--architecture {path}: there is no such file or folder. Give an architecture.json, "
            "or a folder with one."
        )
    return path / ARCHITECTURE if path.is_dir() else path


def inherited(run: Run, path: Path, shape: Architecture) -> tuple[ViT, dict[str, Path]]:
    """Return the network to start from, and the file of its weights by name.

    They are beside the architecture.json `path`, or else the supernet's slice.
    """
    beside = weights_file(path.parent)
    if path.name == ARCHITECTURE and beside.exists():
        return load_network(path), {"weights": beside}
    if not run.supernet.finished:
        raise ArtifactError(
            f"There are no weights to start from, neither beside {path} nor in "
            f"{run.supernet.folder}: give the folder of a trained network, or --init scratch."
        )
    shared = load_shared(run)
    shared.space.require(shape)
    return shared.extract(shape), {"supernet": run.supernet.folder / WEIGHTS}


def normalised(run: Run, images: ImageInput, path: Path, parents: dict[str, Path]) -> ImageInput:
    """Return images read with mean, std and white of those that inherited weights have seen.

    They are in the network's `input.json`, or else those of the supernet's images; what the user
    has set stays.

    Args:
        run: the run.
        images: as they would be read without.
        path: the architecture.json of the network.
        parents: files that the weights come from, by name (`inherited`).
    """
    names = ("mean", "std", "white")
    found: dict[str, Any] = {}
    if "weights" in parents:
        seen = NetworkInput.load(path.parent, Architecture.load(path))
        found = {} if seen is None else {name: getattr(seen, name) for name in names}
    elif "supernet" in parents:
        manifest = run.supernet.manifest()
        white = manifest["settings"]["images"].get("white")
        found = manifest["images"] | {"white": white}
    values: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name in names
        if getattr(images.settings, name) is None and (value := found.get(name)) is not None
    }
    return replace(images, settings=resolve(DataSettings, images.settings, values))


def load_supernet(run: Run, space: SearchSpace | None = None) -> Supernet:
    """Return the run's supernet, as it was distilled.

    Args:
        run: the run.
        space: the space that it was trained on, with the number of classes of the heads to
            extract; as it was trained if None.

    Raises:
        ConfigError: if it was trained with labels.
        ArtifactError: if it is missing or damaged.
    """
    require_distilled(run, "this")
    settings = run.supernet.manifest()["settings"]["settings"]
    space = space or SearchSpace.load(run.supernet.folder / SPACE)
    shape = StudentShape(
        decoder_dim=settings["decoder_dim"],
        decoder_depth=settings["decoder_depth"],
        teacher_dim=_teacher_dim(run),
        unit=units_for(run, space).size,
    )
    return _filled(Supernet(space, shape), run)


def _filled(supernet: W, run: Run) -> W:
    """Fill a supernet with the weights of the run's."""
    path = run.supernet.folder / WEIGHTS
    checkpoint.load_strict(supernet.student, checkpoint.load(path)[0], where=str(path))
    return supernet


def _teacher_dim(run: Run) -> int:
    facts = adopted_facts(run)
    if facts is not None:
        return int(facts["embed_dim"])
    return Architecture.load(run.teacher.folder / ARCHITECTURE).embed_dim


def require_same_images(run: Run, space: SearchSpace) -> None:
    """Raise ArtifactError unless a teacher pre-trained here sees the images of the space.

    An adopted teacher adapts them, see `load_teacher`.
    """
    if adopted_facts(run) is not None:
        return
    run.teacher.manifest()
    teacher = Architecture.load(run.teacher.folder / ARCHITECTURE)
    mine = (space.image_size, space.in_channels)
    its = (teacher.image_size, teacher.in_channels)
    if mine != its:
        raise ArtifactError(
            f"Space {space.name} sees {_pixels(mine[0])} pixels of {mine[1]} channels, but the "
            f"teacher {_pixels(its[0])} of {its[1]}: train a teacher with --image-size "
            f"{format_size(mine[0])} --in-channels {mine[1]}, or choose another space."
        )


def _pixels(image_size: tuple[int, int]) -> str:
    return f"{image_size[0]} x {image_size[1]}"


def _listed(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))
