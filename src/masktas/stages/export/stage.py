"""network -> export/NAME/: files that open without masktas, and how far each is from the network.

An export is made in a folder beside its place and moved there when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from masktas import launch
from masktas.artifacts import ARCHITECTURE, INPUT, LOCK, SEGMENTER, Stage, versions
from masktas.console import Console
from masktas.errors import ArtifactError, ConfigError
from masktas.files import file_digest, read_json, write_json, write_text
from masktas.formats import counted
from masktas.predictor import load
from masktas.segment_predictor import SegmentPredictor
from masktas.stages.evaluate.asked import Network
from masktas.stages.evaluate.where import Home, home_of
from masktas.stages.export.calibration import CalibrationImages
from masktas.stages.export.card import card
from masktas.stages.export.form import Form, Subject
from masktas.stages.export.forms import chosen, export_files
from masktas.stages.export.held_out import SampleImages, sample_images
from masktas.stages.export.parity import (
    LEAST_AGREEMENT,
    MOST_DIFFERENCE,
    Comparison,
    Parity,
    table,
)
from masktas.train.networks import weights_file
from masktas.train.runtime import Runtime
from masktas.train.segmenters import DECODER

PARITY, CARD = "parity.json", "README.md"
NUM_IMAGES = 200


def export(
    path: str | Path,
    *,
    to: str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    calibrate: Any = None,
    bake_preprocess: bool = False,
    num_images: int = NUM_IMAGES,
    console: Console | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a network in forms that open without masktas, and compare each with the network.

    A network that was trained without labels is exported without a head: its outputs are features.
    A segmenter takes crops and gives logits of every pixel.

    Args:
        path: the network: its folder, or a run, which stands for its `finetune/main`, or else its
            `segment/main`.
        to: names of forms with commas between them; all that the installation can write if None.
        out: folder to write; `export/NAME/` of the network's run if None.
        name: of the export in that run; by default made from the network's place.
        calibrate: images, as `masktas predict` takes them, on which the ranges of activations are
            found for 8 bits (`onnx-int8-static`); that form is left out if None.
        bake_preprocess: let ONNX files take decoded images `[B, H, W, C]` of bytes, of the size
            `stored_size` of `input.json`, and crop and normalise them.
        num_images: that the forms are compared on, at most.
        console: where progress and warnings are shown.
        overwrite: replace an earlier export.

    Returns:
        The content of `parity.json`. A form whose outputs differ by more than 1e-3 is not written.

    Raises:
        MasktasError: with one sentence for the user.
    """
    if launch.world_size() > 1:
        raise ConfigError("masktas export runs in one process: start it without torchrun.")
    console, network = console or Console(), load(path)
    subject, home = Subject.of(network), home_of(network.folder)
    folder = _place(network, home, out, name)
    if folder == network.folder.resolve():
        raise ConfigError(f"{folder} holds the network itself: give another --out.")
    made_from = _made_from(network, home)
    calibration = None if calibrate is None else CalibrationImages.of(calibrate, console)
    forms, left_out = chosen(to, subject, calibrate=calibration, bake_preprocess=bake_preprocess)
    asked = made_from | {
        "asked": [form.name for form in forms],
        "asked_images": num_images,
        "calibrated_on": None if calibration is None else calibration.to_dict(),
        "bake_preprocess": bake_preprocess,
        # features were pooled otherwise by earlier versions
        **({"pool": subject.architecture.pool} if subject.classes is None else {}),
    }
    if _is_done(folder, asked, overwrite=overwrite):
        console.say(f"{folder} is finished: nothing to do.")
        return dict(read_json(folder / PARITY))
    for sentence in left_out:
        console.say(f"Left out: {sentence}")
    images = sample_images(home, subject, num_images, console)
    with _made_beside(folder) as made:
        found = _write(subject, forms, images, made, console)
        record = asked | _record(subject, images, found)
        good = {one.form for one in found if one.written}
        written = [one for one in forms if one.name in good]
        header, rows = table_of(record)
        machine = f"{record['machine']}, {counted(record['threads'], 'thread')}"
        text = card(subject, home, written, images.about, [header, *rows], machine)
        write_text(made / CARD, text)
        write_json(made / PARITY, record)
    return record


def _place(network: Network, home: Home | None, out: str | Path | None, name: str | None) -> Path:
    if out is not None:
        if name is not None:
            raise ConfigError("--out and --name both say where the export goes: leave one out.")
        return Path(out).resolve()
    if home is None:
        raise ConfigError(
            f"{network.folder} lies in no run folder: give --out, a folder for the export."
        )
    return home.run.exported(name or home.name)


def _made_from(network: Network, home: Home | None) -> dict[str, Any]:
    """Return the place of the network, in its run if it lies in one, and digests of its files."""
    name = str(home.folder.relative_to(home.run.folder)) if home else network.folder.name
    folder = network.folder
    files = [folder / ARCHITECTURE, weights_file(folder), folder / INPUT]
    if isinstance(network, SegmentPredictor):
        files += [folder / DECODER, folder / SEGMENTER]
    return {"network": name, "made_from": {one.name: file_digest(one) for one in files}}


def _is_done(folder: Path, asked: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether the folder holds this export already.

    Raises:
        ArtifactError: if it holds something else that must not be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / PARITY).exists():
        raise ArtifactError(f"{folder} is no export of masktas: choose another --out.")
    if overwrite:
        _require_own(folder)
        return False
    there = read_json(folder / PARITY)
    if isinstance(there, dict) and all(there.get(key) == asked[key] for key in asked):
        return True
    raise ArtifactError(
        f"{folder} holds an export of another network or of other forms: choose another --out "
        "(or --name), or add --overwrite to replace it."
    )


def _require_own(folder: Path) -> None:
    """Raise ArtifactError if a folder holds what no export wrote, and --overwrite would delete."""
    own = {CARD, PARITY, *export_files()}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_folder and "__pycache__" not in relative.parts and str(relative) not in own:
            raise ArtifactError(
                f"{path} is not part of an export, and --overwrite would delete it: choose another "
                "--out, or move the file."
            )


@contextmanager
def _made_beside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `folder` at the end if nothing failed."""
    beside = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    with ExitStack() as held:
        try:
            held.callback(os.close, Stage("export", beside).lock())
        except OSError as error:
            raise ArtifactError(
                f"{folder} cannot be written ({error.strerror}): choose another --out."
            ) from None
        _empty(beside)  # of a process that was killed
        if old.exists() and not folder.exists():  # killed when it was about to take the place
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        try:
            yield beside
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        (beside / LOCK).unlink()
        _take_place(beside, folder, old)


def _take_place(beside: Path, folder: Path, old: Path) -> None:
    """Put one folder in the place of another, at once where the file system can."""
    if folder.exists():
        try:
            folder.rename(old)
        except OSError:  # a mount point stays where it is, and takes the files
            _empty(folder)
            for path in sorted(beside.iterdir(), key=lambda one: one.name == PARITY):
                shutil.move(path, folder / path.name)
            beside.rmdir()
            return
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _write(
    subject: Subject, forms: list[Form], images: SampleImages, folder: Path, console: Console
) -> list[Parity]:
    """Write every form, compare it, and delete the files of those that are too far off."""
    comparison = Comparison(subject, images.pixels)
    found = [comparison.original]
    with console.bar("exporting", len(forms)) as bar:
        for number, form in enumerate(forms, start=1):
            form.write(subject, folder)
            source, base = form.made_from, None
            if source is not None:  # first: how fast it is, the form is held against
                known = [of for of in found if of.form == source.name]
                base = (known or [comparison.of(source, folder)])[0]
            one = comparison.of(form, folder)
            if base is not None and not base.written:
                off = f"not written: {base.form}, which it is made from, is too far off"
                one = replace(one, written=False, warning=off)
            found.append(one)
            bar.update(number, form.name)
    good = {one.form for one in found if one.written}
    kept = {name for form in forms if form.name in good for name in form.files}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.name != LOCK and str(path.relative_to(folder)) not in kept:
            path.unlink()
    return found


def _record(subject: Subject, images: SampleImages, found: list[Parity]) -> dict[str, Any]:
    """Return what is measured, for `parity.json`."""
    return {
        "outputs": subject.outputs,
        "images": images.about,
        "is_held_out": images.is_real,
        "forms": [one.to_dict() for one in found],
        "limits": {"max_difference": MOST_DIFFERENCE, "agreement_int8": LEAST_AGREEMENT},
        "machine": Runtime.choose("cpu", "fp32").describe()["name"],
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def is_complete(record: dict[str, Any]) -> bool:
    """Return whether every form has been written."""
    return all(one["written"] for one in record["forms"])


def table_of(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of what an export has measured, for a person."""
    found = [Parity.of(one) for one in record["forms"]]
    return table(found, outputs=record["outputs"])
