"""Training steps that are timed on this machine, to choose by; kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from masktas.errors import MasktasError
from masktas.files import read_json, write_json
from masktas.native import cache_folder

FASTER = 1.15  # times as long a step has to take without what is chosen for its speed
LEAST_TURNS = 3
Clock = Callable[[], float]


def best_seconds(
    ways: Mapping[str, Callable[[], None]], seconds: float, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Time steps done in several ways, in turns; the best of each counts.

    The best, since whatever else runs on the machine can only make a step slower.

    Args:
        ways: a step in each way; the first one is not timed.
        seconds: for the timed steps of all together; there are at least `LEAST_TURNS`.
        clock: returns seconds.
    """
    best = dict.fromkeys(ways, math.inf)
    for step in ways.values():
        step()  # torch sets itself up
    until, turns = clock() + seconds, 0
    while turns < LEAST_TURNS or clock() < until:
        for name, step in ways.items():
            began = clock()
            step()
            best[name] = min(best[name], clock() - began)
        turns += 1
    return best


def kept_seconds(
    name: str, about: Sequence[str], ways: Sequence[str], measure: Callable[[], Sequence[float]]
) -> list[float]:
    """Return the seconds of some ways as kept for this machine, or measure and keep them.

    Args:
        name: of the file.
        about: what the seconds depend on, beside torch's version.
        ways: their names.
        measure: returns the seconds of each.
    """
    path = _kept(name, about)
    if path is not None:
        with suppress(MasktasError, AttributeError, KeyError, TypeError, ValueError):
            content = read_json(path)
            kept = [float(content[f"{way}_seconds"]) for way in ways]
            if all(0 < one < math.inf for one in kept):
                return kept
    found = list(measure())
    if path is not None and all(map(math.isfinite, found)):
        with suppress(MasktasError):  # without disk space it is measured again
            write_json(path, {f"{way}_seconds": one for way, one in zip(ways, found, strict=True)})
    return found


def _kept(name: str, about: Sequence[str]) -> Path | None:
    """Return the path of a file in the cache; None if the cache cannot be used."""
    digest = hashlib.sha256("\n".join([torch.__version__, *about]).encode()).hexdigest()
    try:
        return cache_folder() / f"{name}-{digest[:24]}.json"
    except (OSError, RuntimeError):  # the home folder may be unknown
        return None
