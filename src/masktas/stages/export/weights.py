"""What several forms read: the weights by timm's names, and two files that masktas reads.

`architecture.json` and `input.json` are those of any network folder, so that an export can be
predicted with, evaluated and trained on.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from masktas.artifacts import ARCHITECTURE, INPUT
from masktas.files import write_atomic
from masktas.nn.timm_weights import to_timm
from masktas.stages.export.form import Subject
from masktas.train.networks import SAFETENSORS, save_architecture

FILES = (SAFETENSORS, ARCHITECTURE, INPUT)


def write_weights(subject: Subject, folder: Path) -> None:
    """Write the files, unless a form before has."""
    path = folder / SAFETENSORS
    if not path.exists():
        tensors = to_timm(subject.network)
        write_atomic(path, lambda to: save_file(tensors, to, metadata={"format": "pt"}))
        save_architecture(folder / ARCHITECTURE, subject.network.architecture)
        subject.seen.save(folder)
