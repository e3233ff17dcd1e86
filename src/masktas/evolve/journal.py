"""The search's memory on disk: one JSON line for every rated candidate, only ever appended to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from masktas.artifacts import append_lines, read_lines
from masktas.errors import ArtifactError, SpaceError
from masktas.evolve.evolution import Candidate, Evolution
from masktas.space import Architecture, macs, params


def write(path: Path, candidates: list[Candidate], ratings: list[float], start: int) -> None:
    """Append a generation, numbering its candidates from `start`, and make it durable."""
    append_lines(
        path,
        [
            json.dumps(
                {
                    "index": start + offset,
                    "generation": candidate.generation,
                    "origin": candidate.origin,
                    "rating": rating,
                    "params": params(candidate.architecture),
                    "macs": macs(candidate.architecture),
                    "architecture": candidate.architecture.to_dict(),
                }
            )
            for offset, (candidate, rating) in enumerate(zip(candidates, ratings, strict=True))
        ],
    )


def read(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines; a last one cut short by a kill is left out."""
    return read_lines(path)


def replay(path: Path, evolution: Evolution) -> list[float]:
    """Tell `evolution` every whole generation of the journal.

    Returns:
        Ratings of the first candidates of the generation that was cut short, if any.

    Raises:
        ArtifactError: if the journal is not of this search.
    """
    entries = read(path)
    while entries and not evolution.done:
        asked = evolution.ask()
        told = entries[: len(asked)]
        try:
            rated = [Architecture.from_dict(entry["architecture"]) for entry in told]
            ratings = [float(entry["rating"]) for entry in told]
        except (KeyError, TypeError, ValueError, SpaceError):
            raise ArtifactError(f"{path}: not the journal of a search.") from None
        for candidate, entry, one in zip(asked, told, rated, strict=False):
            if one != candidate.architecture:
                raise ArtifactError(
                    f"{path}: candidate {entry['index']} is not the one this search would rate: it "
                    "was written with other settings. Give another --name, or --overwrite."
                )
        if len(told) < len(asked):
            return ratings
        evolution.tell(ratings)
        entries = entries[len(asked) :]
    return []
