"""Compile C code at run time, for the few loops that no library offers."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

FLAGS = (
    "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared",
)  # fmt: skip


def compile_c(source: str) -> ctypes.CDLL | None:
    """Compile a C source for this machine and load it; None if that fails.

    The compiled library is kept in the user's cache folder for later processes, under a name that
    depends on the source, the compiler with its version, and the processor. The compiler is `cc`
    or `gcc`, or the command in the environment variable CC.
    """
    compiler = _compiler()
    if not compiler or not hasattr(os, "fork"):
        return None
    kept = _kept(source, compiler)
    if kept is not None and (library := _load(kept)) is not None:
        return library
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "native.so")
        command = [*compiler, *FLAGS, "-x", "c", "-", "-o", str(made), "-lm"]
        try:
            subprocess.run(command, input=source.encode(), check=True, capture_output=True)
            loaded = ctypes.CDLL(str(made))
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
        if kept is not None:
            _keep(made, kept)
    return loaded


def _compiler() -> list[str]:
    """Return the compiler's command, such as `ccache gcc -m64`, in words; `[]` if there is none."""
    try:
        words = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # a quotation that is not closed
        return []
    found = shutil.which("cc") or shutil.which("gcc")
    return words or ([found] if found else [])


def _kept(source: str, compiler: list[str]) -> Path | None:
    """Return the path of the library in the cache; None if the cache cannot be used."""
    try:
        made_of = "\n".join([source, *compiler, *map(_version, compiler), *FLAGS, processor()])
        return cache_folder() / f"{hashlib.sha256(made_of.encode()).hexdigest()[:24]}.so"
    except (OSError, ValueError):
        return None


def _version(word: str) -> str:
    """Return path, size and time of a program, which change with its version; "" for a flag."""
    found = shutil.which(word)
    if found is None:
        return ""
    state = os.stat(found)
    return f"{os.path.realpath(found)} {state.st_size} {state.st_mtime_ns}"


def cache_folder() -> Path:
    """Return the user's cache folder, for compiled code and measurements of this machine.

    Raises:
        OSError: if it cannot be made, or others may write to it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(home, "masktas")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_private(folder.stat(), folder)
    return folder


def _require_private(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} is open to others")


def _load(kept: Path) -> ctypes.CDLL | None:
    """Load a library of the cache; None if it is missing, damaged or could be of someone else."""
    try:
        if _read_private(kept.with_suffix(".sha256")).decode("ascii") != _digest(kept):
            return None
        return ctypes.CDLL(str(kept))
    except (OSError, ValueError):
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(_read_private(path)).hexdigest()


def _read_private(path: Path) -> bytes:
    """Read a regular file that only the user may write to; links are not followed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _require_private(found, path)
        if not stat.S_ISREG(found.st_mode):
            raise PermissionError(f"{path} is not a regular file")
        return file.read()


def _keep(library: Path, kept: Path) -> None:
    """Copy a library and its checksum into the cache, each whole or not at all.

    Without disk space the library is compiled again later.
    """
    content = library.read_bytes()
    digest = hashlib.sha256(content).hexdigest().encode("ascii")
    for path, written in ((kept, content), (kept.with_suffix(".sha256"), digest)):
        beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY
            with open(os.open(beside, flags, 0o700), "wb") as file:
                file.write(written)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
            return


def processor() -> str:
    """Return the processor's name and flags: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(named))])
