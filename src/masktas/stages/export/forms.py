"""All forms of an export, in the order in which they are written."""

from __future__ import annotations

from masktas.errors import ConfigError
from masktas.stages.export import (
    hf_form,
    int8_form,
    onnx_form,
    static_form,
    timm_form,
    torch_export_form,
    torch_form,
)
from masktas.stages.export.calibration import CalibrationImages
from masktas.stages.export.form import Form, Subject


def all_forms(
    *,
    segments: bool = False,
    calibrate: CalibrationImages | None = None,
    bake_preprocess: bool = False,
) -> dict[str, Form]:
    """Return every form by its name.

    Args:
        segments: whether the network is a segmenter.
        calibrate: images on which the ranges of `onnx-int8-static` are found.
        bake_preprocess: whether ONNX files crop and normalise images themselves.
    """
    forms = (
        torch_form.form(segments=segments),
        timm_form.FORM,
        hf_form.FORM,
        torch_export_form.FORM,
        onnx_form.form(takes_pixels=bake_preprocess),
        int8_form.form(takes_pixels=bake_preprocess),
        static_form.form(images=calibrate, takes_pixels=bake_preprocess),
    )
    return {one.name: one for one in forms}


def export_files() -> set[str]:
    """Return the files that forms of any network consist of, relative to an export."""
    return {
        name
        for segments in (False, True)
        for form in all_forms(segments=segments).values()
        for name in form.files
    }


def chosen(
    to: str | None,
    subject: Subject,
    *,
    calibrate: CalibrationImages | None = None,
    bake_preprocess: bool = False,
) -> tuple[list[Form], list[str]]:
    """Return the forms of a network to write, and why others are left out.

    Args:
        to: names, with commas between them; None for all that are possible.
        subject: the network.
        calibrate: images for `onnx-int8-static`, which is then written as well.
        bake_preprocess: whether ONNX files crop and normalise images themselves.

    Raises:
        ConfigError: if a name is unknown, or a named form is not possible.
    """
    forms = all_forms(
        segments=subject.facts is not None, calibrate=calibrate, bake_preprocess=bake_preprocess
    )
    if to is None:
        written, left_out = _possible(subject, forms)
    else:
        written, left_out = _named(to, subject, forms), []
    if calibrate is not None and static_form.NAME not in [one.name for one in written]:
        forms[static_form.NAME].require(subject)
        written.append(forms[static_form.NAME])
    if bake_preprocess and not any(one.takes_pixels for one in written):
        raise ConfigError(
            "--bake-preprocess is for ONNX files, and none is asked for: add onnx to --to."
        )
    return written, left_out


def _named(to: str, subject: Subject, forms: dict[str, Form]) -> list[Form]:
    names = [name.strip() for name in to.split(",")]
    for name in names:
        if name not in forms:
            raise ConfigError(
                f"--to {name!r}: not a form of export: choose some of {','.join(forms)}."
            )
        forms[name].require(subject)
    return [one for name, one in forms.items() if name in names]


def _possible(subject: Subject, forms: dict[str, Form]) -> tuple[list[Form], list[str]]:
    written, left_out = [], []
    for one in forms.values():
        try:
            one.require(subject)
        except ConfigError as error:
            left_out.append(str(error))
        else:
            written.append(one)
    return written, left_out
