"""Compile C code at run time, for the few loops that no library offers."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = (
    "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared",
)  # fmt: skip


def compile_c(source: str) -> ctypes.CDLL | None:
    """Compile a C source for this machine and load it; None if that fails.

    The compiled library is kept in the user's cache folder for later processes.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not hasattr(os, "fork"):
        return None
    made_of = "\n".join([source, compiler, *FLAGS, _processor()])
    name = f"{hashlib.sha256(made_of.encode()).hexdigest()[:24]}.so"
    try:
        kept = _folder() / name
        if kept.exists():
            return ctypes.CDLL(str(kept))
    except OSError:  # the folder is not usable, or the library is damaged
        kept = None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "native.so")
        command = [compiler, *FLAGS, "-x", "c", "-", "-o", str(library), "-lm"]
        try:
            subprocess.run(command, input=source.encode(), check=True, capture_output=True)
            loaded = ctypes.CDLL(str(library))
        except (OSError, subprocess.SubprocessError):
            return None
        if kept is not None:
            _keep(library, kept)
    return loaded


def _folder() -> Path:
    """Return the user's folder for compiled code; only the user may write to it."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(home, "masktas")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is open to others")
    return folder


def _keep(library: Path, kept: Path) -> None:
    """Copy a library into the cache atomically; without disk space it is compiled again later."""
    beside = kept.with_suffix(f".{os.getpid()}.tmp")
    try:
        shutil.copyfile(library, beside)
        os.replace(beside, kept)
    except OSError:
        beside.unlink(missing_ok=True)


def _processor() -> str:
    """Return the processor's name and flags: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(named))])
