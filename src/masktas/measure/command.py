"""Latency measured by a user's own program (for a phone or a remote board) or function."""

from __future__ import annotations

import math
import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from masktas.artifacts import ARCHITECTURE
from masktas.errors import LatencyError
from masktas.measure.engines import export_onnx, images_for, random_network
from masktas.measure.target import Measure
from masktas.nn.vit import ViT
from masktas.space import Architecture
from masktas.train.networks import save_network

ONNX = "network.onnx"
MAX_EXCERPT = 300  # characters of standard error in messages
MAX_TAIL = 2**16  # bytes at the end of each output that are kept
POLL_SECONDS = 0.05  # between checks of whether it has ended


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
    """Return the ends of standard output and error, and the exit code; None after a timeout.

    The command has ended when its shell has. A process that it leaves behind may hold the pipes
    open, so they are not read to their end.
    """
    process = subprocess.Popen(
        line,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    tails = {process.stdout: bytearray(), process.stderr: bytearray()}
    try:
        ended = _follow(process, tails, time.monotonic() + timeout)
    finally:  # also if interrupted
        if process.poll() is None:
            _end(process)
        for pipe in tails:
            pipe.close()
    output, stderr = (bytes(tail).decode(errors="replace") for tail in tails.values())
    return output, stderr, process.returncode if ended else None


def _follow(
    process: subprocess.Popen[bytes], tails: dict[IO[bytes], bytearray], deadline: float
) -> bool:
    """Keep the end of what a process prints until it ends; return False at the deadline."""
    with selectors.DefaultSelector() as selector:
        for pipe, tail in tails.items():
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, tail)
        while time.monotonic() < deadline:
            ended = process.poll() is not None  # before the last read: a pipe holds MAX_TAIL
            _read_ready(selector, 0.0 if ended else POLL_SECONDS)
            if ended:
                return True
    return False


def _read_ready(selector: selectors.BaseSelector, seconds: float) -> None:
    """Read once from each pipe that has something."""
    for key, _ in selector.select(seconds):
        tail: bytearray = key.data
        chunk = os.read(key.fd, MAX_TAIL)
        if not chunk:
            selector.unregister(key.fileobj)
        tail += chunk
        del tail[:-MAX_TAIL]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that descend from it, also in sessions of their own."""
    below = _descendants(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in below:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _descendants(root: int) -> list[int]:
    """Return the processes below one, from /proc; none where there is no /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # ended meanwhile
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


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
