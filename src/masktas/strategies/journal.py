"""The search's memory on disk: one JSON line for every rated candidate, only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from masktas.artifacts import append_lines, read_lines
from masktas.errors import ArtifactError, MasktasError
from masktas.space import Architecture
from masktas.strategies.strategy import Candidate, Score, Strategy


def write(
    path: Path,
    rated: Sequence[tuple[Candidate, Score]],
    start: int,
    costs: Callable[[Architecture], Mapping[str, float]],
    *,
    reused: Mapping[Architecture, str] | None = None,
) -> None:
    """Append candidates, a generation or a part of one, and make them durable.

    Args:
        path: the journal.
        rated: candidates with their scores, in the order in which they were asked for.
        start: the number of the first of them within the whole search.
        costs: all that is known of what an architecture costs, by name (`params`, `macs`...).
        reused: the search that a rating was taken from, for those that were not rated anew.
    """
    append_lines(
        path,
        [
            json.dumps(_entry(start + offset, candidate, score, costs, reused or {}))
            for offset, (candidate, score) in enumerate(rated)
        ],
    )


def _entry(
    index: int,
    candidate: Candidate,
    score: Score,
    costs: Callable[[Architecture], Mapping[str, float]],
    reused: Mapping[Architecture, str],
) -> dict[str, Any]:
    one = candidate.architecture
    entry: dict[str, Any] = {
        "index": index,
        "generation": candidate.generation,
        "origin": candidate.origin,
        "rating": score.rating,
        "error": score.error,
        "images": score.images,
        "complete": score.complete,
    }
    if one in reused:
        entry["reused"] = reused[one]
    return entry | dict(costs(one)) | {"architecture": one.to_dict()}


def read(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines; a last one cut short by a kill is left out."""
    return read_lines(path)


def read_score(entry: Mapping[str, Any]) -> Score:
    """Return the score of a line.

    Raises:
        KeyError, TypeError, ValueError, MasktasError: if it is not the line of a rated candidate.
    """
    error, images, complete = entry["error"], entry["images"], entry["complete"]
    if type(complete) is not bool or not (images is None or type(images) is int):
        raise ValueError(f"not a score: {entry}")
    return Score(float(entry["rating"]), None if error is None else float(error), images, complete)


def replay(path: Path, strategy: Strategy) -> list[Score]:
    """Tell `strategy` every whole generation of the journal.

    Returns:
        Scores of the first candidates of the generation that was cut short, if any.

    Raises:
        ArtifactError: if the journal is not of this search.
    """
    entries = read(path)
    while entries and not strategy.done:
        asked = strategy.ask()
        told = entries[: len(asked)]
        scores = _scores(path, told, asked)
        if len(told) < len(asked):
            return scores
        strategy.tell(scores)
        entries = entries[len(asked) :]
    if entries:
        raise _not_asked(path, entries[0])
    return []


def _scores(path: Path, told: list[dict[str, Any]], asked: list[Candidate]) -> list[Score]:
    """Return the scores of lines that must be of the first candidates asked."""
    try:
        rated = [Architecture.from_dict(entry["architecture"]) for entry in told]
        scores = [read_score(entry) for entry in told]
    except (KeyError, TypeError, ValueError, MasktasError):
        raise ArtifactError(f"{path}: not the journal of a search.") from None
    for candidate, entry, one in zip(asked, told, rated, strict=False):
        if one != candidate.architecture:
            raise _not_asked(path, entry)
    return scores


def _not_asked(path: Path, entry: Mapping[str, Any]) -> ArtifactError:
    return ArtifactError(
        f"{path}: candidate {entry.get('index')} is not the one this search would rate: it "
        "was written with other settings. Give another --name, or --overwrite."
    )
