"""A user's own measure: a program, which may ask a phone or a remote board, or a function."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from masktas.artifacts import ARCHITECTURE
from masktas.errors import LatencyError
from masktas.measure.engines import export_onnx, images_for, random_network
from masktas.measure.target import Measure
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.networks import save_network

ONNX = "network.onnx"
SAID = 300  # characters of what a program said last


def run_command(
    command: str, architecture: Architecture, *, batch: int = 1, timeout: float = 600.0
) -> float:
    """Write a network to a folder of its own, have the command time it, and return milliseconds.

    Args:
        command: for the shell. `{folder}`, `{architecture}`, `{onnx}` and `{batch}` stand for the
            folder, two files in it and the batch; the folder is appended where none is there. Its
            last line on standard output is the number.
        architecture: of the network; its weights are random.
        batch: of the ONNX file.
        timeout: seconds until it is ended, with all processes that it started.

    Raises:
        LatencyError: if it fails, takes too long or prints no number above 0.
    """
    with tempfile.TemporaryDirectory(prefix="masktas-latency-") as name:
        folder = Path(name)
        network = random_network(architecture)
        save_network(folder, network)
        if "{onnx}" in command:
            export_onnx(network, images_for(network.architecture, batch), folder / ONNX)
        line = filled(command, folder, batch)
        output, said, code = _run(line, timeout)
    if code is None:
        raise LatencyError(f"`{line}` took more than {timeout:g} s{_told(said)}.")
    if code:
        raise LatencyError(f"`{line}` ended with exit code {code}{_told(said)}.")
    lines = output.strip().splitlines()
    return _milliseconds(
        lines[-1] if lines else "", f"the last line that `{line}` printed", _told(said)
    )


def filled(command: str, folder: Path, batch: int) -> str:
    """Put paths and batch into a command, as words of the shell."""
    words = {
        "{folder}": str(folder),
        "{architecture}": str(folder / ARCHITECTURE),
        "{onnx}": str(folder / ONNX),
    }
    if not any(name in command for name in words):
        command += " {folder}"
    for name, word in (words | {"{batch}": str(batch)}).items():
        command = command.replace(name, shlex.quote(word))
    return command


def call_function(measure: Measure, network: ViT) -> float:
    """Return what a user's function measures; a LatencyError if it is no number above 0."""
    return _milliseconds(measure(network), "what the function returned", "")


def _run(line: str, timeout: float) -> tuple[str, str, int | None]:
    """Return standard output, standard error and the exit code: None if it took too long."""
    process = subprocess.Popen(
        line,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, said = process.communicate(timeout=timeout)
        return output, said, process.returncode
    except subprocess.TimeoutExpired:
        _end(process)
        output, said = process.communicate()
        return output, said, None
    except BaseException:  # interrupted: nothing of it is left behind
        _end(process)
        process.communicate()
        raise


def _end(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def _milliseconds(value: Any, what: str, told: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        raise LatencyError(f"{what[:1].upper()}{what[1:]} is {value!r}, no milliseconds{told}.")
    return number


def _told(said: str) -> str:
    """Return the end of what a program said, as part of a sentence."""
    words = " ".join(said.split())
    return (
        f" (it said: ...{words[-SAID:]})"
        if len(words) > SAID
        else f" (it said: {words})" * bool(words)
    )
