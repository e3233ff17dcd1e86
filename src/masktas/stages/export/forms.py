"""All forms of an export, in the order in which they are written."""

from __future__ import annotations

from masktas.errors import ConfigError
from masktas.stages.export import (
    hf_form,
    int8_form,
    onnx_form,
    timm_form,
    torch_export_form,
    torch_form,
)
from masktas.stages.export.form import Form, Subject

FORMS = {
    one.name: one
    for one in (
        torch_form.FORM,
        timm_form.FORM,
        hf_form.FORM,
        torch_export_form.FORM,
        onnx_form.FORM,
        int8_form.FORM,
    )
}


def chosen(to: str | None, subject: Subject) -> tuple[list[Form], list[str]]:
    """Return the forms of a network to write, and why others are left out.

    Args:
        to: names, with commas between them; None for all that are possible.
        subject: the network.

    Raises:
        ConfigError: if a name is unknown, or a named form is not possible.
    """
    if to is None:
        return _possible(subject)
    names = [name.strip() for name in to.split(",")]
    for name in names:
        if name not in FORMS:
            raise ConfigError(
                f"--to {name!r}: not a form of export: choose some of {','.join(FORMS)}."
            )
        FORMS[name].require(subject)
    return [one for name, one in FORMS.items() if name in names], []


def _possible(subject: Subject) -> tuple[list[Form], list[str]]:
    forms, left_out = [], []
    for one in FORMS.values():
        try:
            one.require(subject)
        except ConfigError as error:
            left_out.append(str(error))
        else:
            forms.append(one)
    return forms, left_out
