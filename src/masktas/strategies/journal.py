"""The journal of a search: an append-only file with one JSON line per rated candidate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masktas.errors import ArtifactError, MasktasError
from masktas.files import append_lines, read_lines
from masktas.space import Architecture
from masktas.strategies.strategy import Candidate, Evaluated, Score, Strategy


def write(
    path: Path,
    evaluated: Sequence[Evaluated],
    start: int,
    *,
    reused: Mapping[Architecture, str] | None = None,
) -> None:
    """Append candidates, a generation or a part of one, and make them durable.

    Args:
        path: the journal.
        evaluated: candidates in the order in which they were asked for.
        start: the number of the first of them within the whole search.
        reused: the search that a rating was taken from, for those that were not rated anew.
    """
    append_lines(
        path,
        [
            json.dumps(_entry(start + offset, one, reused or {}))
            for offset, one in enumerate(evaluated)
        ],
    )


def _entry(index: int, one: Evaluated, reused: Mapping[Architecture, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "index": index,
        "generation": one.generation,
        "origin": one.origin,
        "rating": one.rating,
        "error": one.score.error,
        "images": one.score.images,
        "complete": one.score.complete,
    }
    if one.architecture in reused:
        entry["reused"] = reused[one.architecture]
    return entry | dict(one.costs) | {"architecture": one.architecture.to_dict()}


def read(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines; a last line truncated by a kill is left out."""
    return read_lines(path)


def reused(path: Path) -> list[Architecture]:
    """Return the networks of a journal that `replay` has read whose ratings other searches made."""
    return [Architecture.from_dict(one["architecture"]) for one in read(path) if "reused" in one]


def read_score(entry: Mapping[str, Any]) -> Score:
    """Return the score of a line.

    Raises:
        KeyError, TypeError, ValueError, MasktasError: if the line has no valid score.
    """
    error, images, complete = entry["error"], entry["images"], entry["complete"]
    if type(complete) is not bool or not (images is None or type(images) is int):
        raise ValueError(f"not a score: {entry}")
    return Score(float(entry["rating"]), None if error is None else float(error), images, complete)


def replay(path: Path, strategy: Strategy) -> list[Score]:
    """Replay every complete generation of the journal with `tell`.

    Returns:
        Scores of the first candidates of an incomplete generation, if there is one.

    Raises:
        ArtifactError: if the journal belongs to another search.
    """
    entries = read(path)
    while entries and not strategy.done:
        asked = strategy.ask()
        known = entries[: len(asked)]
        scores = _scores(path, known, asked)
        if len(known) < len(asked):
            return scores
        strategy.tell(scores)
        entries = entries[len(asked) :]
    if entries:
        raise _not_asked(path, entries[0])
    return []


def _scores(path: Path, entries: list[dict[str, Any]], asked: list[Candidate]) -> list[Score]:
    """Return the scores of lines, which must be those of the first candidates asked for."""
    try:
        rated = [Architecture.from_dict(entry["architecture"]) for entry in entries]
        scores = [read_score(entry) for entry in entries]
    except (KeyError, TypeError, ValueError, MasktasError):
        raise ArtifactError(f"{path}: not the journal of a search.") from None
    for candidate, entry, one in zip(asked, entries, rated, strict=False):
        if one != candidate.architecture:
            raise _not_asked(path, entry)
    return scores


def _not_asked(path: Path, entry: Mapping[str, Any]) -> ArtifactError:
    return ArtifactError(
        f"{path}: candidate {entry.get('index')} is not the one this search would rate: the "
        "journal was written with other settings. Give another --name, or --overwrite."
    )
