"""How the command line reports an error: one sentence on standard error, safe to print."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import NoReturn

from cyclopts import CycloptsError
from cyclopts import ValidationError as ArgumentError

from masktas import launch
from masktas.errors import ConfigError
from masktas.formats import shown

USAGE_ERROR = 2
LONGEST = 80  # characters of a wrong value that are repeated
REPORTING = 3.0  # seconds that the first process has to report an error that all have
# What to do by the room of the code that ran out of memory; the first one found counts.
REMEDIES = {
    "train": "choose --accumulate 2 or more, --recompute, a smaller --batch-size, image_size or "
    "network.",
    "ratings": "choose a smaller --image-size or network, or fewer images for the ratings.",
    "data": "an image or archive is too large to be read, or --cache-size, the images or --limit "
    "are: leave out the largest files, or use fewer or smaller images.",
    "space": "the search space or network is too large: give fewer or smaller choices.",
}
REMEDY = "close other programs, or choose a smaller network, image size or --batch-size."


def rank() -> int:
    """Return the rank of this process; 0 if torchrun's environment variables are invalid."""
    try:
        return launch.rank()
    except ConfigError:
        return 0


def fail(sentence: str) -> NoReturn:
    """Print a sentence to standard error and exit."""
    if rank():
        time.sleep(REPORTING)  # the first process reports an error that it has too; then all end
    who = f"masktas (process {rank()})" if rank() else "masktas"
    print(f"{who}: {shown(sentence)}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Return whether memory ran out; torch on a CPU has no exception of its own for it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text


def memory_advice(error: BaseException) -> str:
    """Say that memory ran out, and what to do about it where it did."""
    rooms = _rooms(error.__traceback__)
    remedy = next((remedy for room, remedy in REMEDIES.items() if room in rooms), REMEDY)
    return f"There is not enough memory: {remedy}"


def _rooms(trace: TracebackType | None) -> set[str]:
    """Return the packages of masktas that an error has passed through."""
    rooms = set()
    while trace is not None:
        package, _, rest = trace.tb_frame.f_globals.get("__name__", "").partition(".")
        if package == "masktas":
            rooms.add(rest.partition(".")[0])
        trace = trace.tb_next
    return rooms


def sentence(error: CycloptsError) -> str:
    """Describe what is wrong with the arguments, and name the help."""
    cause = error.__cause__
    if isinstance(error, ArgumentError) and cause is not None and hasattr(cause, "errors"):
        first = cause.errors()[0]
        names = [part for part in first["loc"] if isinstance(part, str)]
        flag = "--" + names[-1].replace("_", "-") if names else "A flag"
        message = first["msg"].removeprefix("Value error, ")
        said = str(first["input"])
        said = said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
        return f"{flag} {said}: {message[:1].lower()}{message[1:].rstrip('.')}."
    command = " ".join(error.command_chain or ())
    return f"{str(error).strip()} See `masktas {command + ' ' if command else ''}--help`."
