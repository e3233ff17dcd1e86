"""What several forms read: the weights by timm's names, and files that masktas reads.

`architecture.json` and `input.json` are those of any network folder, so that an export can be
predicted with, evaluated and trained on. The decoder of a segmenter lies beside them as in the
folder that its stage wrote.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from masktas.artifacts import ARCHITECTURE, INPUT, SEGMENTER
from masktas.files import write_atomic
from masktas.nn.timm_weights import to_timm
from masktas.stages.export.form import Subject
from masktas.train.networks import SAFETENSORS, save_architecture
from masktas.train.segmenters import DECODER, save_decoder

FILES = (SAFETENSORS, ARCHITECTURE, INPUT)
SEGMENTER_FILES = (*FILES, DECODER, SEGMENTER)


def write_weights(subject: Subject, folder: Path) -> None:
    """Write the files, unless a form before has."""
    path = folder / SAFETENSORS
    if path.exists():
        return
    tensors = to_timm(subject.backbone)
    write_atomic(path, lambda to: save_file(tensors, to, metadata={"format": "pt"}))
    save_architecture(folder / ARCHITECTURE, subject.architecture)
    subject.seen.save(folder)
    if subject.segmenter is not None and subject.facts is not None:
        save_decoder(folder, subject.segmenter, subject.facts)
