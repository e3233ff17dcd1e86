"""C of our own, compiled where it runs: for the few loops that no library has."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = (
    "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared",
)  # fmt: skip


def compile_c(source: str) -> ctypes.CDLL | None:
    """Compile a C source for this machine and load it; None where that cannot be done."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not hasattr(os, "fork"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "native.so")
        command = [compiler, *FLAGS, "-x", "c", "-", "-o", str(library), "-lm"]
        try:
            subprocess.run(command, input=source.encode(), check=True, capture_output=True)
            return ctypes.CDLL(str(library))
        except (OSError, subprocess.SubprocessError):
            return None
