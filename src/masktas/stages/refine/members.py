"""The cohort of a refinement: the best networks of a search, unlike one another, and baselines."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from masktas.artifacts import ARCHITECTURE, HISTORY
from masktas.errors import ArtifactError, MasktasError
from masktas.files import read_json, read_lines
from masktas.space import QUANTITIES, Architecture
from masktas.space.vary import distance
from masktas.strategies import Evaluated, Score, journal

UNIFORM = ("house", "uniform", "best-uniform")  # baselines of a search that may win


@dataclass(frozen=True, slots=True)
class Member:
    """A network of the cohort.

    Attributes:
        name: `candidate-N`, the N-th best of those chosen from the search, or the baseline's.
        rated: with its rating and costs in the search, and the head that the search counted.
        baselines: names of the baselines of the search that it is, if any.
        competes: whether it can win: random networks cannot.
    """

    name: str
    rated: Evaluated
    baselines: tuple[str, ...] = ()
    competes: bool = True

    @property
    def architecture(self) -> Architecture:
        """Of the network."""
        return self.rated.architecture


def best_of(history: Sequence[Evaluated], *, count: int, diversity: int) -> list[Evaluated]:
    """Choose up to `count` rated networks, the best first.

    Patch sizes take turns, and with each its shapes (a width and a depth), the best rated first,
    each with its best network that differs by `diversity` genes or more from all chosen before.
    Shared weights rank shapes worse than networks of one shape, and a search ends with many of
    these: without turns they would take most places (docs/results/search-pays.md).

    Args:
        history: networks with complete scores.
        count: largest number of networks.
        diversity: smallest number of genes in which two of them differ.
    """
    least = max(1, diversity)  # no network is chosen twice
    chosen: list[Evaluated] = []

    def take(shapes: deque[deque[Evaluated]]) -> None:
        while shapes:
            wanted = shapes.popleft()
            while wanted:
                one = wanted.popleft()
                others = (other.architecture for other in chosen)
                if all(distance(one.architecture, other) >= least for other in others):
                    chosen.append(one)
                    shapes.append(wanted)
                    return

    found: dict[int, dict[tuple[int, int], deque[Evaluated]]] = {}
    for one in sorted(history, key=lambda one: -one.rating):
        shape = one.architecture.embed_dim, one.architecture.depth
        found.setdefault(one.architecture.patch_size, {}).setdefault(shape, deque()).append(one)
    patch_sizes = [deque(shapes.values()) for shapes in found.values()]
    while any(patch_sizes) and len(chosen) < count:
        for shapes in patch_sizes:
            if len(chosen) < count:
                take(shapes)
    return sorted(chosen, key=lambda one: -one.rating)


def cohort_of(search: Path, *, count: int, diversity: int, with_random: bool) -> list[Member]:
    """Return the cohort of a finished search.

    Args:
        search: its folder.
        count, diversity: see `best_of`.
        with_random: whether the random networks of the search belong to it.

    Raises:
        ArtifactError: if a file of the search is damaged.
    """
    members: dict[Architecture, Member] = {}
    chosen = best_of(_complete(search), count=count, diversity=diversity)
    for place, one in enumerate(chosen, start=1):
        members[one.architecture] = Member(f"candidate-{place}", one)
    for name in (*UNIFORM, *(_random_names(search) if with_random else ())):
        path = search / f"{name}.json"
        if path.exists():
            own = _baseline(name, path)
            known = members.get(own.architecture, own)
            members[own.architecture] = replace(known, baselines=(*known.baselines, name))
    return list(members.values())


def _random_names(search: Path) -> list[str]:
    """Return the names of the random networks of a search, in order."""
    numbers = (path.stem.removeprefix("random-") for path in search.glob("random-*.json"))
    return [f"random-{number}" for number in sorted(int(n) for n in numbers if n.isdigit())]


def _baseline(name: str, path: Path) -> Member:
    """Read a baseline that the search wrote."""
    one, facts = Architecture.load(path), read_json(path)
    if not isinstance(facts.get("rating"), float):
        raise ArtifactError(f"{path}: damaged, it has no rating. Run the search again.")
    rated = Evaluated(one, Score(facts["rating"]), _costs(facts))
    return Member(name, rated, competes=name in UNIFORM)


def _complete(search: Path) -> list[Evaluated]:
    """Read the networks that a search rated on all images.

    A network rated above the winner exceeded the budget when its latency was measured: it is left
    out.
    """
    path, rated = search / HISTORY, dict[Architecture, Evaluated]()
    winner = Architecture.load(search / ARCHITECTURE)
    try:
        for entry in read_lines(path):
            one, score = Architecture.from_dict(entry["architecture"]), journal.read_score(entry)
            if score.complete:
                rated[one] = Evaluated(one, score, _costs(entry))
        most = rated[winner].rating
    except (KeyError, TypeError, ValueError, MasktasError):
        raise ArtifactError(
            f"{path}: not the journal of the search in this folder. Run the search again with "
            "--overwrite."
        ) from None
    return [one for one in rated.values() if one.rating <= most]


def _costs(facts: Mapping[str, Any]) -> dict[str, float]:
    return {what: facts[what] for what in QUANTITIES if what in facts}
