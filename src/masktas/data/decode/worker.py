"""The inside of a decoder process: `python -m masktas.data.decode.worker SETTINGS`.

It reads what to do from standard input, a line of JSON for each image, takes encoded images from
one end of a file it shares with its parent (the window) and puts pixels to the other. What a
damaged image can do to it (crash, hang, take all memory) it can do to this process only.
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
    """Answer line by line until standard input ends."""
    settings = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is busy with
    answers = os.dup(1)
    os.write(answers, b"{}\n")  # here I am
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what libraries print is no answer
    os.dup2(nowhere, 2)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = settings["memory"] if hard == resource.RLIM_INFINITY else min(settings["memory"], hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    warnings.simplefilter("ignore")
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, 2 * settings["seconds"])  # the parent may be gone
        answer = _answer(json.loads(line), settings)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(answers, json.dumps(answer).encode() + b"\n")


def _answer(task: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    window: int = settings["window"]
    try:
        encoded = _read(window, task["offset"], task["bytes"])
        content = encoded if task["dtype"] is None else _array(encoded, task)
        if task["pixels"] is None:
            return {"dimensions": dimensions(content)}
        wanted = task["pixels"]
        pixels = decode(
            content,
            size=(wanted["size"][0], wanted["size"][1]),
            in_channels=wanted["in_channels"],
            white=wanted["white"],
        )
    except DataError as error:
        return {"problem": str(error)}
    except MemoryError:
        return {"problem": f"needs more than {settings['memory'] / 1e9:.0f} GB of memory"}
    _write(window, pixels.tobytes(), task["out"])
    return {"digest": _digest(encoded, task)}


def _array(encoded: bytes, task: dict[str, Any]) -> NDArray[Any]:
    return np.frombuffer(encoded, dtype=np.dtype(task["dtype"])).reshape(task["shape"])


def _digest(encoded: bytes, task: dict[str, Any]) -> str:
    """Name the content: equal files, and equal arrays, have equal digests."""
    digest = hashlib.sha256(encoded)
    if task["dtype"] is not None:
        digest.update(f"{task['dtype']} {task['shape']}".encode())
    return digest.hexdigest()[:32]


def _read(window: int, offset: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.pread(window, count, offset)
        if not part:
            raise DataError("the window is shorter than the image")
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return b"".join(parts)


def _write(window: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(window, left, offset)
        left, offset = left[written:], offset + written


if __name__ == "__main__":
    main()
