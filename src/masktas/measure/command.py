"""Latency measured by a user's own program (for a phone or a remote board) or function."""

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
MAX_EXCERPT = 300  # characters of standard error in messages


def run_command(
    command: str, architecture: Architecture, *, batch: int = 1, timeout: float = 600.0
) -> float:
    """Write a network to a temporary folder, run the command on it, and return milliseconds.

    Args:
        command: for the shell. `{folder}`, `{architecture}`, `{onnx}` and `{batch}` are replaced by
            the folder, two files in it and the batch size; without a path among them, the folder is
            appended. The last line of standard output is the number.
        architecture: of the network; its weights are random.
        batch: of the ONNX file.
        timeout: seconds after which it is killed with all processes that it started.

    Raises:
        LatencyError: if it fails, takes too long or prints no number above 0.
    """
    with tempfile.TemporaryDirectory(prefix="masktas-latency-") as name:
        folder = Path(name)
        network = random_network(architecture)
        save_network(folder, network)
        if "{onnx}" in command:
            export_onnx(network, images_for(network.architecture, batch), folder / ONNX)
        line = fill_placeholders(command, folder, batch)
        output, stderr, code = _run(line, timeout)
    if code is None:
        raise LatencyError(f"`{line}` took more than {timeout:g} s{_excerpt(stderr)}.")
    if code:
        raise LatencyError(f"`{line}` ended with exit code {code}{_excerpt(stderr)}.")
    lines = output.strip().splitlines()
    return _milliseconds(
        lines[-1] if lines else "", f"the last line that `{line}` printed", _excerpt(stderr)
    )


def fill_placeholders(command: str, folder: Path, batch: int) -> str:
    """Replace the placeholders of a command by paths and batch size, quoted for the shell."""
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
    """Return what a user's function measures; LatencyError unless it is a number above 0."""
    return _milliseconds(measure(network), "what the function returned", "")


def _run(line: str, timeout: float) -> tuple[str, str, int | None]:
    """Return standard output, standard error and the exit code; None after a timeout."""
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
        output, stderr = process.communicate(timeout=timeout)
        return output, stderr, process.returncode
    except subprocess.TimeoutExpired:
        _end(process)
        output, stderr = process.communicate()
        return output, stderr, None
    except BaseException:  # interrupted: leave no process behind
        _end(process)
        process.communicate()
        raise


def _end(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def _milliseconds(value: Any, what: str, excerpt: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        raise LatencyError(
            f"{what[:1].upper()}{what[1:]} is {value!r}, not milliseconds above 0{excerpt}."
        )
    return number


def _excerpt(stderr: str) -> str:
    """Return the end of standard error as part of a sentence."""
    words = " ".join(stderr.split())
    return (
        f" (standard error: ...{words[-MAX_EXCERPT:]})"
        if len(words) > MAX_EXCERPT
        else f" (standard error: {words})" * bool(words)
    )
