"""Mean and standard deviation of images, measured once and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_statistics(path: Path) -> dict[str, list[float]] | None:
    """Read `mean` and `std`; None if they have to be measured (again)."""
    try:
        found: dict[str, list[float]] = json.loads(path.read_bytes())
        return {name: [float(value) for value in found[name]] for name in ("mean", "std")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def measure(images: Iterable[NDArray[np.uint8]]) -> dict[str, list[float]]:
    """Return `mean` and `std`, in [0, 1], of each channel of images `[B, H, W, C]`.

    Computed from exact counts of the 256 values, so images are never converted to floats.
    """
    counts: NDArray[np.int64] = np.zeros((0, 256), dtype=np.int64)
    for part in images:
        channels = range(part.shape[3])
        new = [np.bincount(part[..., c].reshape(-1), minlength=256) for c in channels]
        counts = np.array(new) if not len(counts) else counts + np.array(new)
    levels = np.arange(256)
    mean = counts @ levels / counts.sum(1) / 255
    std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(1) / 255**2 - mean**2, 0))
    return {"mean": mean.tolist(), "std": np.maximum(std, 1e-3).tolist()}
