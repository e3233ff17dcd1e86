"""`model.pt2`: the program of `torch.export`, for batches of any size."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from masktas.files import write_atomic
from masktas.measure.engines import images_for
from masktas.stages.export.form import Form, Run, Subject, always

PROGRAM = "model.pt2"


def write(subject: Subject, folder: Path) -> None:
    """Trace the network and write its program."""
    images = images_for(subject.architecture, 2)
    dynamic = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(subject.network, (images,), dynamic_shapes=dynamic)
    content = io.BytesIO()  # torch writes files by that ending only
    torch.export.save(program, content)

    def save(to: Path) -> None:
        to.write_bytes(content.getvalue())

    write_atomic(folder / PROGRAM, save)


def open_(folder: Path) -> Run:
    """Load the program."""
    made: Run = torch.export.load(folder / PROGRAM).module()
    return made


FORM = Form("torch-export", (PROGRAM,), True, always, write, open_)
