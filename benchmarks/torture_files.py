"""What a stage has left in its folder so far, and what differs from the quiet run at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What tells when and how fast it was, not what was made.
UNCOMPARED = (".lock", "ledger.jsonl", "started.json")  # the last one names the run's folder
TIMES = ("seconds", "share_of_peak", "peak_flops", "memory_bytes", "attempts")


def names(folder: Path) -> Iterator[str]:
    """Yield the names of what is in a folder and in its checkpoints, as fast as can be."""
    for place in (folder, folder / "checkpoints"):
        try:
            yield from os.listdir(place)
        except OSError:
            continue


def half_written(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(".tmp")]


def checkpoint(folder: Path) -> int | None:
    """Return the step of the newest checkpoint."""
    steps = (name for name in names(folder) if name.startswith("step-"))
    return max((int(name[5:14]) for name in steps), default=None)


def lines(folder: Path) -> int:
    """Count the lines that are there of what the stage logs: steps, or rated networks."""
    logs = [folder / name for name in ("metrics.jsonl", "history.jsonl")]
    return sum(log.read_bytes().count(b"\n") for log in logs if log.exists())


def decoding(out: Path) -> list[str]:
    return [path.name for path in (out / "data").glob("*") if not (path / "store.json").exists()]


def traces(out: Path, folder: Path) -> tuple[Any, ...]:
    """Return what changes in a run as soon as a stage is at work in it."""
    logs = [folder / name for name in ("metrics.jsonl", "history.jsonl", "ledger.jsonl")]
    written = [log.stat().st_mtime_ns if log.exists() else 0 for log in logs]
    return decoding(out), half_written(folder), checkpoint(folder), *written


def compared(folder: Path) -> dict[str, Path]:
    """List the files that must be the same, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path
        for path in files
        if path.name not in UNCOMPARED and "tensorboard" not in path.parts
    }


def timeless(manifest: Path) -> Any:
    content = json.loads(manifest.read_text())
    del content["finished"]
    content["cost"] = {key: value for key, value in content["cost"].items() if key not in TIMES}
    return content


def differences(whole: Path, other: Path) -> list[str]:
    """Name every file that is not what it is in the quiet run, is missing, or is left over."""
    here, there = compared(whole), compared(other)
    found = [f"{name} is missing" for name in here.keys() - there.keys()]
    found += [f"{name} is left over" for name in there.keys() - here.keys()]
    for name in here.keys() & there.keys():
        if here[name].name == "manifest.json":
            same = timeless(here[name]) == timeless(there[name])
        else:
            same = here[name].read_bytes() == there[name].read_bytes()
        if not same:
            found.append(f"{name} differs")
    empty = (path for path in other.rglob("*") if path.is_dir() and path.name == "checkpoints")
    found += [f"{path.relative_to(other)}/ is left over" for path in empty]
    return [f"{other.name}: {problem}" for problem in sorted(found)]
