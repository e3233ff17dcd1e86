"""Adopt a teacher trained elsewhere: open it, fit it to the space, write it to teacher/."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm

from masktas.artifacts import MANIFEST, TEACHER, Run, Stage
from masktas.config import AdoptedTeacher, DataSettings
from masktas.errors import ArtifactError, ConfigError
from masktas.files import file_digest, write_json
from masktas.nn.teachers.files import UNKNOWN, read_config, read_licence, read_tensors
from masktas.nn.teachers.function import Ask, FunctionTeacher, name_of
from masktas.nn.teachers.mae_format import IMAGENET_MEAN, IMAGENET_STD, convert, licence_of
from masktas.nn.teachers.pretrained import PretrainedTeacher
from masktas.nn.teachers.teacher import EncoderTeacher, InputSpec
from masktas.nn.teachers.timm_vit import TimmTeacher, load_timm, open_timm
from masktas.nn.teachers.vitmae import MODEL_TYPE, normalisation, read_vitmae
from masktas.space import SearchSpace
from masktas.stages.common.images import Data, ImageInput
from masktas.stages.common.load import (
    DECODER,
    adopted_facts,
    load_decoder,
    teacher_file,
    teacher_input_spec,
)
from masktas.stages.common.stage import Context
from masktas.train import checkpoint
from masktas.train.input import NetworkInput
from masktas.train.networks import WEIGHTS, load_network, save_network

TAKEN = (
    "another run, a file in the public MAE format (.pth, .safetensors), a folder of a Hugging "
    "Face ViTMAE, or a timm model as timm:NAME, timm:NAME@FILE or hf-hub:ID"
)


def open_teacher(
    spec: str,
    *,
    num_heads: int | None = None,
    partial: bool = False,
    flag: str = "--teacher",
) -> tuple[PretrainedTeacher, Path | None]:
    """Open a teacher that was trained elsewhere; its format follows from the path or name.

    Args:
        spec: a path or a name of a model.
        num_heads: of an MAE file of unusual width.
        partial: accept a checkpoint that leaves tensors unfilled or unused.
        flag: with which the user gave it, for messages.

    Returns:
        The teacher, and its file of weights if that is on this machine.

    Raises:
        MasktasError: if its format is unknown, or it cannot be read.
    """
    if spec.startswith("timm:"):
        name, _, file = spec.removeprefix("timm:").partition("@")
        return _of_timm(name, spec, Path(file) if file else None, partial)
    if spec.startswith(("hf-hub:", "hf_hub:")):
        return _of_timm(spec.replace("hf_hub:", "hf-hub:"), spec, None, partial)
    path = Path(spec)
    if path.is_dir():
        return _of_folder(path, spec, partial, flag)
    if path.is_file():
        encoder, decoder = convert(
            read_tensors(path), where=path, num_heads=num_heads, partial=partial
        )
        sight = InputSpec.of(encoder.architecture, list(IMAGENET_MEAN), list(IMAGENET_STD))
        licence = licence_of(path.name) or UNKNOWN
        return PretrainedTeacher(spec, EncoderTeacher(encoder), sight, licence, decoder), path
    if timm.is_model(spec.split(".")[0]):
        return _of_timm(spec, spec, None, partial)
    raise ConfigError(f"{flag} {spec}: there is no such file, folder or model: give {TAKEN}.")


def _of_timm(
    name: str, spec: str, file: Path | None, partial: bool
) -> tuple[PretrainedTeacher, Path | None]:
    teacher, sight, licence = open_timm(name, file=file, partial=partial)
    return PretrainedTeacher(spec, teacher, sight, licence), file


def _of_folder(
    path: Path, spec: str, partial: bool, flag: str
) -> tuple[PretrainedTeacher, Path | None]:
    run = Run(path)
    if not run.teacher.finished and path.name == "teacher" and (path / MANIFEST).exists():
        run = Run(path.parent)
    if run.teacher.finished:
        return _of_run(run, spec), run.teacher.folder / WEIGHTS
    config = read_config(path / "config.json")
    if config.get("model_type") == MODEL_TYPE:
        encoder, decoder, config, file = read_vitmae(path, partial=partial)
        mean, std = normalisation(path)
        return PretrainedTeacher(
            spec,
            EncoderTeacher(encoder),
            InputSpec.of(encoder.architecture, list(mean), list(std)),
            read_licence(path),
            decoder,
            normalised_pixels=bool(config.get("norm_pix_loss", False)),
        ), file
    if "architecture" in config:
        released, _ = _of_timm(f"local-dir:{path}", spec, None, partial)
        if released.licence == UNKNOWN:
            released = dataclasses.replace(released, licence=read_licence(path))
        return released, None
    raise ConfigError(f"{flag} {spec}: a folder, but not one of a teacher: give {TAKEN}.")


def _of_run(run: Run, spec: str) -> PretrainedTeacher:
    """Return the teacher of a run: pre-trained there, or adopted by it."""
    manifest, facts, folder = run.teacher.manifest(), adopted_facts(run), run.teacher.folder
    licence = manifest.get("licence", "none: trained by this run")
    if facts is not None and facts["kind"] == "function":
        raise ConfigError(f"{spec}: a Python function, which only Python can give again.")
    teacher: EncoderTeacher | TimmTeacher
    if facts is not None and facts["kind"] == "timm":
        path = folder / WEIGHTS
        teacher = load_timm(facts, checkpoint.load(path)[0], where=path, adapter=None)
        return PretrainedTeacher(spec, teacher, teacher_input_spec(run), licence)
    teacher = EncoderTeacher(load_network(folder))
    return PretrainedTeacher(
        spec,
        teacher,
        teacher_input_spec(run),
        licence,
        load_decoder(folder, teacher.encoder.architecture),
        normalised_pixels=facts is None or facts["normalised_pixels"],
    )


def adopt(
    context: Context,
    settings: AdoptedTeacher,
    space: SearchSpace,
    *,
    data: Data | None,
    data_settings: DataSettings | None,
    ask: Ask | None = None,
) -> None:
    """Copy the teacher that the settings name into the run's `teacher/`.

    A teacher that was adopted already is not read again.

    Args:
        context: of the stage that needs the teacher.
        settings: which teacher, and how it is read.
        space: of the students.
        data, data_settings: images, as for the stage.
        ask: a function, instead of the teacher in the settings.

    Raises:
        MasktasError: if it cannot be read, does not fit the space, or the run has another one.
    """
    adopted = AdoptedTeacher(
        **{name: getattr(settings, name) for name in AdoptedTeacher.model_fields}
    )
    if ask is not None:
        adopted = adopted.model_copy(update={"teacher": name_of(ask)})
    stage = context.run.teacher
    todo = context.ranks.first(lambda: context.overwrite or not stage.finished)
    if not todo:
        _require_this(stage, adopted)
        return
    if data is None:
        raise ConfigError(
            f"{stage.folder} is not there yet: with --teacher, give DATA too, the images that the "
            "students learn from."
        )
    images = context.images_given(
        data, data_settings, image_size=space.image_size, in_channels=space.in_channels
    )
    images.require_fit(space.largest, f"space {space.name}")
    context.fetch(images)
    if ask is None:
        _adopt_released(context, stage, adopted, space, images)
    else:
        _adopt_function(context, stage, adopted, space, images, ask)


def _require_this(stage: Stage, settings: AdoptedTeacher) -> None:
    """Raise ArtifactError unless a finished teacher is the one that the settings name."""
    manifest = stage.manifest()
    there, here = manifest["settings"]["settings"], settings.model_dump(mode="json")
    if "adopted" not in manifest:
        problem = "was pre-trained here"
    elif there != here:
        key = next(key for key in here if there.get(key) != here[key])
        problem = f"was adopted with {key} {there.get(key)!r}, not {here[key]!r}"
    else:
        file = manifest["adopted"]["file"]
        digest = manifest["adopted"]["sha256"]
        if file is None or not Path(file).exists() or file_digest(Path(file)) == digest:
            return
        problem = f"was adopted from {file}, which has changed since"
    raise ArtifactError(
        f"{stage.folder} {problem}: leave --teacher out to keep it, choose another --out, or "
        "add --overwrite to start afresh."
    )


def _adopt_released(
    context: Context, stage: Stage, settings: AdoptedTeacher, space: SearchSpace, images: ImageInput
) -> None:
    assert settings.teacher is not None
    released, file = open_teacher(
        settings.teacher, num_heads=settings.teacher_heads, partial=settings.teacher_partial
    )
    # only size and layer are fitted: the normalisation of the student's images is not known yet
    student = InputSpec.of(space.largest, [0.5], [0.5])
    fitted = released.fitted(
        student,
        patch_sizes=space.patch_size,
        layer=settings.teacher_layer,
        resize=settings.teacher_resize,
    )
    context.console.say(
        f"Teacher: {settings.teacher}, {fitted.teacher.embed_dim} wide, {fitted.teacher.depth} "
        f"blocks; licence of its weights: {fitted.licence}"
    )
    facts = describe(fitted)
    tensors = fitted.teacher.model.state_dict() if isinstance(fitted.teacher, TimmTeacher) else None
    if tensors is not None:  # found incomplete now, not when a stage depends on it
        load_timm(facts, dict(tensors), where=settings.teacher, adapter=None)
    digest = None if file is None else file_digest(file)

    def save() -> None:
        if isinstance(fitted.teacher, TimmTeacher):
            checkpoint.save(stage.folder / WEIGHTS, fitted.teacher.model.state_dict(), {})
        else:
            sight = fitted.sight
            seen = NetworkInput.of_released(
                sight.image_size, sight.in_channels, sight.mean, sight.std
            )
            save_network(stage.folder, fitted.teacher.encoder, seen=seen)
        if fitted.decoder is not None:
            checkpoint.save(stage.folder / DECODER, fitted.decoder.state_dict(), {})

    origin = {"file": None if file is None else str(file.resolve()), "sha256": digest}
    _write(context, stage, settings, images, facts, origin, save)


def describe(released: PretrainedTeacher) -> dict[str, Any]:
    """Return the content of `teacher.json`: all that is needed to load the teacher again."""
    sight = released.sight
    facts = {
        "kind": "vit",
        "source": released.source,
        "licence": released.licence,
        "embed_dim": released.teacher.embed_dim,
        "depth": released.teacher.depth,
        "image_size": list(sight.image_size),
        "patch_size": sight.patch_size,
        "in_channels": sight.in_channels,
        "mean": list(sight.mean),
        "std": list(sight.std),
        "decoder": released.decoder is not None,
        "normalised_pixels": released.normalised_pixels,
    }
    if isinstance(released.teacher, TimmTeacher):
        facts |= {"kind": "timm", **released.teacher.recipe.to_dict()}
    return facts


def _adopt_function(
    context: Context,
    stage: Stage,
    settings: AdoptedTeacher,
    space: SearchSpace,
    images: ImageInput,
    ask: Ask,
) -> None:
    one = space.largest
    student = InputSpec(one.image_size, space.unit, one.in_channels, (0.5,), (0.5,))
    teacher = FunctionTeacher(ask, student, context.runtime.device)
    facts = {
        "kind": "function",
        "source": name_of(ask),
        "licence": UNKNOWN,
        "embed_dim": teacher.embed_dim,
        "image_size": list(one.image_size),
        "patch_size": space.unit,
        "in_channels": one.in_channels,
        "mean": [],
        "std": [],
        "decoder": False,
        "normalised_pixels": True,
    }
    context.console.say(f"Teacher: the function {name_of(ask)}, {teacher.embed_dim} wide")
    _write(context, stage, settings, images, facts, {"file": None, "sha256": None}, lambda: None)


def _write(
    context: Context,
    folder: Stage,
    settings: AdoptedTeacher,
    images: ImageInput,
    facts: dict[str, Any],
    origin: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Write the stage: `teacher.json`, what `save` writes, and the manifest."""
    store = context.open_images(images, allowed=("supernet",))

    def write() -> dict[str, Any]:
        write_json(folder.folder / TEACHER, facts)
        save()
        weights = file_digest(teacher_file(context.run))
        about = {**facts, **origin, "layer": settings.teacher_layer, "weights_sha256": weights}
        return {"adopted": about, "licence": facts["licence"]}

    with context.stage(folder, settings, parents={}, images=images, store=store) as stage:
        if stage.todo:
            stage.finish(store, {"images": 0, "flops": 0}, write)
