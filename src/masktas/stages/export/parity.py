"""How far a form is from the original, and how fast and large it is.

Shapes: n images, K outputs, of a segmenter for each of H x W pixels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from masktas.measure.clock import clock_for, time_turn
from masktas.measure.target import Target
from masktas.stages.export.form import PIXELS, Form, Run, Subject

MOST_DIFFERENCE = 1e-3  # of a form that computes in float32
LEAST_AGREEMENT = 0.99  # of a form of 8 bits, below which it is written with a warning
NOISE = 1.05  # between timings of equal speed
BATCH = 32


@dataclass(frozen=True, slots=True)
class Parity:
    """A form compared with the original, on the same images and this machine.

    Attributes:
        form: its name; `original` for the network as masktas runs it.
        max_difference: largest absolute difference of an output.
        agreement: share of the images, or of a segmenter the pixels, with the same most probable
            class; of features, the smallest cosine similarity.
        bytes: of its files.
        ms: for one image, median of a few calls with the threads of this process; one thread is
            timed by its own clock, as in `masktas latency`.
        written: whether it is part of the export.
        warning: what a user should know before using it; empty if nothing.
    """

    form: str
    max_difference: float
    agreement: float
    bytes: int
    ms: float
    written: bool = True
    warning: str = ""

    @staticmethod
    def of(fields: dict[str, Any]) -> Parity:
        """Read what `to_dict` returned."""
        numbers = {name: math.nan for name, one in fields.items() if one is None}
        return Parity(**(fields | numbers))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types; a difference that is not finite is null."""
        fields = asdict(self)
        for name in ("max_difference", "agreement"):
            fields[name] = fields[name] if math.isfinite(fields[name]) else None
        return fields


class Comparison:
    """Compares forms with a network.

    Args:
        subject: the network.
        pixels: decoded images `[n, *stored_size, C]`.
    """

    def __init__(self, subject: Subject, pixels: NDArray[np.uint8]) -> None:
        self._has_classes = subject.classes is not None
        images = subject.seen.prepare(pixels, torch.device("cpu"))
        self._inputs = {False: images, True: torch.from_numpy(pixels)}  # by `takes_pixels`
        self._expected = _outputs(subject.network, images)
        size = sum(one.numel() * 4 for one in subject.network.parameters())
        self.original = Parity("original", 0.0, 1.0, size, _ms(subject.network, images))
        self._fastest = self.original.ms  # of the good forms that compute in float32

    def of(self, form: Form, folder: Path) -> Parity:
        """Compare a form that has been written into a folder; `written` says if it may stay."""
        run, images = form.open(folder), self._inputs[form.takes_pixels]
        found = _outputs(run, images)
        first = _outputs(run, images[:1])  # another batch size must give the same
        apart = [(found - self._expected).abs().max(), (first - self._expected[:1]).abs().max()]
        difference = float(torch.stack(apart).max())  # a NaN stays one, which max() may drop
        agreement, ms = self._agreement(found), _ms(run, images)
        size = sum((folder / name).stat().st_size for name in form.files)
        good = not form.is_exact or difference <= MOST_DIFFERENCE  # a NaN is not
        warning = "" if form.is_exact else self._warning(agreement, ms)
        if form.is_exact and good:
            self._fastest = min(self._fastest, ms)
        return Parity(form.name, difference, agreement, size, ms, good, warning)

    def _agreement(self, found: Tensor) -> float:
        if self._has_classes:
            return float((found.argmax(1) == self._expected.argmax(1)).double().mean())
        return float(F.cosine_similarity(found.double(), self._expected.double()).min())

    def _warning(self, agreement: float, ms: float) -> str:
        problems = []
        if not agreement >= LEAST_AGREEMENT:
            what = "agrees on" if self._has_classes else "has a cosine similarity of"
            problems.append(f"{what} only {agreement:.1%} (less than {LEAST_AGREEMENT:.0%})")
        if ms > NOISE * self._fastest:
            problems.append(f"is slower than in float32 ({self._fastest:.2f} ms)")
        return " and ".join(problems)


def _ms(run: Run, images: Tensor) -> float:
    one = images[:1].contiguous()
    with torch.inference_mode():
        return statistics.median(time_turn(lambda: run(one), clock=clock_for(Target())))


def _outputs(run: Run, images: Tensor) -> Tensor:
    """Return the outputs `[n, K]` or `[n, K, H, W]` of images, computed in batches."""
    with torch.no_grad():
        return torch.cat([run(batch).float() for batch in _batches(images)])


def _batches(images: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH].contiguous()


AGREEMENT = {"logits": "same top-1", "features": "least cosine", PIXELS: "same pixels"}


def table(found: list[Parity], *, outputs: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table that a person reads; `outputs` as in a `Subject`."""
    same = AGREEMENT[outputs]
    header = ["form", "largest difference", same, "size", "ms per image", ""]
    rows = []
    for one in found:
        state = one.warning or ("" if one.written else "not written: too far from the original")
        rows.append(
            [
                one.form,
                f"{one.max_difference:.1e}",
                f"{one.agreement:.1%}" if outputs != "features" else f"{one.agreement:.5f}",
                _bytes(one.bytes),
                f"{one.ms:.2f}",
                state,
            ]
        )
    return header, rows


def _bytes(size: int) -> str:
    return f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"
