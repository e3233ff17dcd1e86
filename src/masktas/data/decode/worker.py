"""Main program of a decoder process: `python -m masktas.data.decode.worker SETTINGS`.

It reads requests from standard input, one line of JSON per image, and encoded images from a file
shared with its parent, or, large ones, from standard input after the request. It writes pixels to
that file. A damaged image that crashes, hangs or exhausts memory affects this process only.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktas.data.decode.image import decode, dimensions
from masktas.errors import DataError


def main() -> None:
    """Answer requests until the end of standard input."""
    settings = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops this process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once
    answers = os.dup(1)
    os.write(answers, b"{}\n")  # greeting
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # output of libraries must not mix with answers
    os.dup2(nowhere, 2)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = settings["memory"] if hard == resource.RLIM_INFINITY else min(settings["memory"], hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    warnings.simplefilter("ignore")
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, 2 * settings["timeout"])  # in case the parent is gone
        answer = _answer(json.loads(line), settings)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(answers, json.dumps(answer).encode() + b"\n")


def _answer(request: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    shared: int = settings["shared"]
    try:
        if request["offset"] is None:
            encoded = _read_piped(request["bytes"])
        else:
            encoded = _read(shared, request["offset"], request["bytes"])
        content = encoded if request["dtype"] is None else _array(encoded, request)
        if request["spec"] is None:
            return {"dimensions": dimensions(content)}
        spec = request["spec"]
        pixels = decode(
            content,
            size=(spec["size"][0], spec["size"][1]),
            in_channels=spec["in_channels"],
            white=spec["white"],
        )
    except DataError as error:
        return {"problem": str(error)}
    except MemoryError:
        return {"problem": f"needs more than {settings['memory'] / 1e9:.0f} GB of memory"}
    _write(shared, pixels.tobytes(), request["out"])
    return {"digest": _digest(encoded, request)}


def _array(encoded: bytes, request: dict[str, Any]) -> NDArray[Any]:
    return np.frombuffer(encoded, dtype=np.dtype(request["dtype"])).reshape(request["shape"])


def _digest(encoded: bytes, request: dict[str, Any]) -> str:
    """Return a digest of the content, equal for equal files and equal arrays."""
    digest = hashlib.sha256(encoded)
    if request["dtype"] is not None:
        digest.update(f"{request['dtype']} {request['shape']}".encode())
    return digest.hexdigest()[:32]


def _read_piped(count: int) -> bytes:
    try:
        return sys.stdin.buffer.read(count)
    except MemoryError:  # raised before anything is read; the next request follows the image
        while count and (part := sys.stdin.buffer.read(min(count, 1 << 20))):
            count -= len(part)
        raise


def _read(shared: int, offset: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.pread(shared, count, offset)
        if not part:
            raise DataError("the shared file is shorter than the image")
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return b"".join(parts)


def _write(shared: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(shared, left, offset)
        left, offset = left[written:], offset + written


if __name__ == "__main__":
    main()
